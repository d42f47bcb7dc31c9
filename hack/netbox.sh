#!/usr/bin/env bash
# Runs a real NetBox on loopback: PostgreSQL, Redis, web server and RQ worker, from packages of Debian and PyPI. Needs Linux.
#
#   eval "$(hack/netbox.sh up [DIRECTORY])"       starts what is not running, and prints its environment on standard output
#   hack/netbox.sh down DIRECTORY [SERVICE...]    ends what up started (worker, web, redis, postgres), or these services only
#
# Each DIRECTORY (by default a new one in /tmp) is a NetBox of its own, with its data, logs and sockets; several run side by side. The
# packages and an empty database are in the user's cache: the first start takes minutes, later ones seconds.
#
# Environment: NETBOX_PYTHON (a Python of 3.12 or later); NETBOX_RQ_RETRY_MAX and NETBOX_RQ_RETRY_INTERVAL (NetBox's parameters).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=4.7.3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/netbox-event-operator/netbox-$version
venv=$cache/venv
user=$(id -un)

say() { echo "netbox: $*" >&2; }

die() {
  say "$*"
  exit 1
}

# logged LOG COMMAND...: runs the command with its output in LOG, which is shown if the command fails.
logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null || die "failed: $*: $(tail -n 20 "$log")"
}

# as_postgres COMMAND...: PostgreSQL refuses to run as root.
as_postgres() {
  if [ "$user" = root ]; then
    (cd / && runuser -u postgres -- "$@")
  else
    "$@"
  fi
}

# reachable DIRECTORY: dies unless PostgreSQL can use the directory.
reachable() {
  as_postgres test -x "$1" || die "the user postgres cannot reach $1: choose a directory whose parents are open to all users, as /tmp"
}

# find_postgres: sets postgres to the directory of PostgreSQL's programs.
find_postgres() {
  local initdb
  initdb=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)
  [ -x "$initdb" ] || initdb=$(command -v initdb) || return 1
  postgres=$(dirname "$initdb")
}

# find_python: sets python to a Python that NetBox supports.
find_python() {
  for python in ${NETBOX_PYTHON:-} python3.12 python3.13 python3.14 python3 "$HOME"/.pyenv/versions/*/bin/python; do
    "$python" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' 2>/dev/null && return
  done
  return 1
}

# missing_packages: prints the Debian packages that are needed and not installed.
missing_packages() {
  local candidate version
  find_postgres || echo postgresql
  command -v redis-server >/dev/null || echo redis-server
  [ ! -e "$venv/complete" ] || return 0
  command -v pg_config >/dev/null || echo libpq-dev
  command -v gcc >/dev/null || echo gcc
  if ! find_python; then
    candidate=$(LC_ALL=C apt-cache policy python3 2>/dev/null | awk '$1 == "Candidate:" { print $2 }')
    dpkg --compare-versions "${candidate:-0}" ge 3.12 2>/dev/null || return 0
    printf '%s\n' python3-venv python3-dev
    return 0
  fi
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip' 2>/dev/null || echo "$version-venv"
  "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo "$version-dev"
}

install_packages() {
  local packages
  mapfile -t packages < <(missing_packages)
  [ "${#packages[@]}" -gt 0 ] || return 0
  if [ "$user" != root ] || ! command -v apt-get >/dev/null; then
    die "missing packages; install them (names of Debian): apt-get install --no-install-recommends ${packages[*]}"
  fi
  say "installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  logged "$cache/apt.log" apt-get update -q
  logged "$cache/apt.log" apt-get install -y -q --no-install-recommends "${packages[@]}"
}

install_netbox() {
  [ ! -e "$venv/complete" ] || return 0
  find_python || die "NetBox needs Python 3.12, 3.13 or 3.14: install one, or set NETBOX_PYTHON to its program"
  say "installing NetBox $version from PyPI, once: about 2 minutes"
  logged "$cache/pip.log" "$python" -m venv --clear "$venv"
  logged "$cache/pip.log" "$venv/bin/pip" install --no-input --disable-pip-version-check "netbox==$version"
  touch "$venv/complete"
}

# random LENGTH: prints letters and digits.
random() {
  "$venv/bin/python" -c 'import secrets, string, sys
print("".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(int(sys.argv[1]))))' "$1"
}

write_credentials() {
  cat <<EOF
export NETBOX_USER=admin
export NETBOX_PASSWORD=$(random 20)
export NETBOX_TOKEN=$(random 40)
export NETBOX_V2_TOKEN=nbt_$(random 12).$(random 40)
export NETBOX_SECRET=$(random 60)
EOF
}

# make_template: makes a directory with the database of an empty NetBox, which every new NetBox copies.
make_template() {
  say "making NetBox's tables, once: about 30 seconds"
  directory=$(mktemp -d "${TMPDIR:-/tmp}/netbox.XXXXXX")
  trap 'end postgres; end redis; rm -rf "$directory"' EXIT
  chmod 711 "$directory"
  reachable "$directory"
  mkdir "$directory/postgres"
  [ "$user" != root ] || chown postgres "$directory/postgres"
  (umask 077 && write_credentials >"$directory/credentials")
  logged "$directory/initdb.log" as_postgres "$postgres/initdb" -D "$directory/postgres" -U netbox -A trust -E UTF8 --locale=C.UTF-8 \
    --no-sync --wal-segsize=1
  start_postgres
  start_redis
  logged "$directory/createdb.log" "$postgres/createdb" -h "$directory/postgres" -U netbox netbox
  environment
  logged "$directory/schema.log" "$venv/bin/python" "$root/hack/netbox/schema.py"
  end postgres
  end redis
  rm -rf "$template.new"
  mkdir -p "$template.new"
  cp -Rp "$directory/postgres" "$directory/credentials" "$template.new/"
  mv "$template.new" "$template"
}

# environment: sets the environment of NetBox's programs.
environment() {
  # shellcheck disable=SC1091 # written by write_credentials
  . "$directory/credentials"
  export NETBOX_ROOT=$directory NETBOX_CONFIGURATION=netbox_configuration PYTHONPATH=$root/hack/netbox PYTHONDONTWRITEBYTECODE=1
}

pid_file() {
  case $1 in
  postgres) echo "$directory/postgres/postmaster.pid" ;;
  *) echo "$directory/$1.pid" ;;
  esac
}

# running SERVICE: sets pid if the service is running.
running() {
  pid=$(head -n 1 "$(pid_file "$1")" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$directory/" # the process id may be another program's by now
}

# end SERVICE: ends a service and waits for it. SIGINT makes PostgreSQL disconnect its clients, a second signal the worker give up its job.
end() {
  local i signal=TERM
  [ "$1" != postgres ] || signal=INT
  for i in {0..150}; do
    running "$1" || return 0
    case $i in
    0 | 10) kill -s "$signal" "$pid" 2>/dev/null || true ;;
    150) kill -KILL "$pid" 2>/dev/null || true ;;
    esac
    sleep 0.1
  done
}

# start SERVICE COMMAND...: starts a service in the background. It keeps neither the lock nor the caller's terminal or output.
start() {
  local service=$1
  shift
  (cd "$directory" && exec setsid "$@" >"$service.log" 2>&1 </dev/null 9>&-) &
  started=$!
  echo "$started" >"$directory/$service.pid"
}

# await SERVICE COMMAND...: waits until the command succeeds, or dies if the service, which was just started, ends or takes 5 minutes.
await() {
  local service=$1 deadline=$((SECONDS + 300))
  shift
  until "$@"; do
    if [ "$SECONDS" -gt "$deadline" ] || ! kill -0 "$started" 2>/dev/null; then
      die "$service does not start: $(tail -n 20 "$directory/$service.log")"
    fi
    sleep 0.1
  done
}

start_postgres() {
  ! running postgres || return 0
  local options="-c listen_addresses= -c unix_socket_directories=. -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
  logged "$directory/postgres.log" as_postgres "$postgres/pg_ctl" -D "$directory/postgres" -w -s -l "$directory/postgres/log" \
    -o "$options" start 9>&-
}

start_redis() {
  ! running redis || return 0
  start redis redis-server --port 0 --unixsocket "$directory/redis.sock" --unixsocketperm 700 --save '' --dir "$directory"
  await redis redis_answers ping PONG
}

# redis_answers COMMAND... ANSWER: tests whether Redis gives the answer.
redis_answers() { [ "$(redis-cli -s "$directory/redis.sock" "${@:1:$#-1}" 2>/dev/null)" = "${*: -1}" ]; }

# start_netbox: starts the web server, at the port that it had before, and the worker, and waits for both.
start_netbox() {
  local web='' name port
  port=$(cat "$directory/port" 2>/dev/null || echo 0)
  if ! running web; then
    start web "$venv/bin/gunicorn" --pid "$directory/web.pid" --bind "127.0.0.1:$port" --workers 1 --threads 4 --timeout 120 \
      --no-control-socket netbox_wsgi
    web=$started
  fi
  if ! running worker; then
    name=worker-$$-$RANDOM # RQ refuses for a time the name of a worker that was killed
    start worker "$venv/bin/netbox" rqworker --pid "$directory/worker.pid" --name "$name" high default low
    await worker redis_answers sismember rq:workers "rq:worker:$name" 1
  fi
  if [ -n "$web" ]; then
    started=$web
    await web listens
    await web answers
    echo "$port" >"$directory/port"
  fi
}

# listens: sets port if the web server has one.
listens() {
  port=$(sed -n 's|.*Listening at: http://127.0.0.1:\([0-9]*\) .*|\1|p' "$directory/web.log")
  [ -n "$port" ]
}

answers() { curl -fs --max-time 60 -o /dev/null -H "Authorization: Token $NETBOX_TOKEN" "http://127.0.0.1:$port/api/status/"; }

up() {
  directory=${1:-}
  command -v curl >/dev/null || die "missing: curl is not installed (or not on PATH)"
  prepare
  if [ -z "$directory" ]; then
    directory=$(mktemp -d "${TMPDIR:-/tmp}/netbox.XXXXXX")
    trap 'down "$directory"; rm -rf "$directory"' EXIT
    chmod 711 "$directory"
  fi
  mkdir -p "$directory"/{media,reports,scripts}
  directory=$(cd "$directory" && pwd)
  reachable "$directory"
  if ! [ -e "$directory/credentials" ]; then
    cp -Rp "$template/postgres" "$directory/"
    cp -p "$template/credentials" "$directory/"
  fi
  environment
  start_postgres
  start_redis
  start_netbox
  grep -v NETBOX_SECRET "$directory/credentials"
  printf 'export NETBOX_URL=http://127.0.0.1:%s\nexport NETBOX_DIR=%q\n' "$(cat "$directory/port")" "$directory"
  trap - EXIT
}

# prepare: fills the cache, and sets postgres and template. One process at a time changes the cache.
prepare() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  install_packages
  find_postgres
  install_netbox
  template=$cache/template-$(cat "$root"/hack/netbox/*.py "$postgres/postgres" | cksum | cut -d ' ' -f 1)
  [ -e "$template" ] || (make_template)
  exec 9>&-
}

down() {
  local service
  directory=$(cd "$1" && pwd)
  shift
  [ $# -gt 0 ] || set -- worker web redis postgres
  for service in "$@"; do
    end "$service"
  done
}

case $#,${1:-} in
[12],up) up "${@:2}" ;;
[2-9],down) down "${@:2}" ;;
*) die "usage: hack/netbox.sh up [DIRECTORY] | down DIRECTORY [SERVICE...]" ;;
esac
