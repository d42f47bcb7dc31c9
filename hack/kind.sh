#!/usr/bin/env bash
# Creates a kind cluster with an ingress controller, the Gateway API and an image, and prints the environment of make e2e on standard output:
#
#   eval "$(make -s kind)" && make e2e
#
# Usage: hack/kind.sh IMAGE_ARCHIVE. An existing cluster is reused; kind delete cluster --name netbox-events deletes it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archive=$1
cluster=netbox-events
traefik=41.6.1     # the version of its chart, with Traefik 3.7
gateway_api=v1.6.1 # the version that this Traefik was built with
http_port=30080 https_port=30443

"$root/hack/prerequisites.sh" kind kubectl helm
if docker info >/dev/null 2>&1; then
  provider=docker
elif podman info >/dev/null 2>&1; then
  provider=podman
else
  echo "missing: kind needs docker or podman, and neither is running" >&2
  exit 1
fi
export KIND_EXPERIMENTAL_PROVIDER=$provider

# A separate file, so that the user's current context does not change.
mkdir -p "$root/bin"
export KUBECONFIG=$root/bin/kind.kubeconfig

{
  if kind get clusters | grep -qx "$cluster"; then
    kind export kubeconfig --name "$cluster"
  else
    kind create cluster --name "$cluster" --wait 120s --config - <<EOF
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
  extraPortMappings:
  - {containerPort: $http_port, hostPort: $http_port, listenAddress: 127.0.0.1}
  - {containerPort: $https_port, hostPort: $https_port, listenAddress: 127.0.0.1}
EOF
  fi
  kind load image-archive "$archive" --name "$cluster"

  kubectl apply --server-side -f \
    "https://github.com/kubernetes-sigs/gateway-api/releases/download/$gateway_api/standard-install.yaml"
  # Its Service of type LoadBalancer stays pending, because kind has no load balancer. Its node ports work, but helm cannot wait for it.
  helm upgrade --install traefik oci://ghcr.io/traefik/helm/traefik --version "$traefik" --namespace traefik --create-namespace \
    --skip-crds --values - <<EOF
providers:
  kubernetesCRD: {enabled: false}
  kubernetesIngress: {enabled: true}
  kubernetesGateway: {enabled: true}
ingressClass: {enabled: true, name: traefik}
gatewayClass: {enabled: true, name: traefik}
ports:
  web: {nodePort: $http_port}
  websecure: {nodePort: $https_port}
EOF
  kubectl rollout status --namespace traefik deployment/traefik --timeout 180s
  kubectl wait --for=condition=Accepted gatewayclass/traefik --timeout 60s
} >&2

cat <<EOF
export KUBECONFIG=$KUBECONFIG
export E2E_URL=http://127.0.0.1:$http_port
export E2E_INGRESS_CLASS=traefik
export E2E_GATEWAY_CLASS=traefik
export E2E_GATEWAY_PORT=8000 # of Traefik's entry point web
EOF
