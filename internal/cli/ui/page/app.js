import { ask, Failure, stream, takeToken } from "./api.js";
import { el } from "./dom.js";
import { showEvent } from "./event.js";
import { List } from "./list.js";
import { showRules, showSources } from "./overview.js";

const byID = (id) => document.getElementById(id);
const page = byID("page");
const dialog = byID("ask");
const form = byID("filter");
const list = new List(byID("list"), (row) => { location.hash = `#/events/${row.name}`; });

// The list, which goes on while another page is shown.

let listHash = "#/events"; // that of the list's filter
let streamed = null; // its AbortController

const retryAfter = 2000; // milliseconds
const applyAfter = 100; // milliseconds; the timer also runs while the tab is hidden

/** query returns the filter of a hash as the server wants it. */
function query(hash) {
  const filter = new URLSearchParams(hash.split("?")[1]);
  const state = filter.get("state");
  filter.delete("state");
  if (state) {
    filter.set(state, "true");
  }
  return filter;
}

async function follow(hash) {
  streamed?.abort();
  const { signal } = streamed = new AbortController();
  list.clear();
  fillForm(hash);
  complain("");
  showContext();
  for (;;) {
    live(list.length > 0 ? "reconnecting" : "loading", "busy");
    let queue = [];
    const apply = () => {
      const messages = queue;
      queue = [];
      if (!signal.aborted) {
        list.apply(messages);
        messages.forEach(note);
        byID("count").textContent = `${list.length.toLocaleString("en")} event${list.length === 1 ? "" : "s"}`;
        refresh(messages);
      }
    };
    let problem = "The server does not answer; is kubectl netbox ui still running?";
    let isFinal = false;
    let lastError;
    try {
      await stream(`/api/events?${query(hash)}`, signal, (messages) => {
        if (queue.length === 0) {
          setTimeout(apply, applyAfter);
        }
        queue.push(...messages);
        lastError = messages.at(-1).error;
      });
      if (lastError) {
        [problem, isFinal] = [lastError, true];
      }
    } catch (error) {
      if (error instanceof Failure) {
        ({ message: problem, isFinal } = error);
      }
    }
    if (signal.aborted) {
      return;
    }
    apply();
    complain(problem);
    live(isFinal ? "not live" : "disconnected; trying again", "bad");
    if (isFinal) {
      return;
    }
    await new Promise((resolve) => { setTimeout(resolve, retryAfter); });
    if (signal.aborted) {
      return;
    }
  }
}

/** note shows what a message says about the list. */
function note(message) {
  if (message.listed) {
    complain("");
    live("live", "good");
  } else if (message.warning) {
    complain(message.warning);
    live("delayed", "busy");
  }
}

function live(text, tone) {
  byID("live").textContent = text;
  byID("live").className = `tone ${tone}`;
}

function complain(text) {
  byID("problem").textContent = text;
  byID("problem").hidden = text === "";
}

// Pages.

let shown = null; // the AbortController of the page
let shownUID = "";

const pages = [
  [/^#\/events\/([^/?]+)$/, async (signal, name) => {
    const { uid, title, nodes } = await showEvent(decodeURIComponent(name), signal, replay);
    shownUID = uid;
    return [title, [el("p", {}, el("a", { href: listHash }, "← Events")), ...nodes]];
  }],
  [/^#\/rules$/, async (signal) => ["Rules", await showRules(signal)]],
  [/^#\/sources$/, async (signal) => ["Sources", await showSources(signal)]],
];

/** route shows what the hash names. */
async function route() {
  if (takeToken()) {
    streamed?.abort();
    streamed = null;
  }
  shown?.abort();
  shownUID = "";
  const hash = location.hash;
  const at = pages.findIndex(([pattern]) => pattern.test(hash));
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = hash.startsWith(link.getAttribute("href").split("?")[0]) || (at < 0 && link.textContent === "Events");
    if (isCurrent) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  }
  byID("events").hidden = at >= 0;
  page.hidden = at < 0;
  if (at < 0) {
    document.title = "NetBox events";
    if (hash !== listHash || !streamed) {
      listHash = hash;
      document.querySelector("nav a").href = hash;
      follow(hash);
    }
    list.focus();
    return;
  }
  if (!streamed) {
    follow(listHash);
  }
  page.replaceChildren(el("p", { class: "dim" }, "Loading…"));
  await load();
  page.scrollTop = 0;
  page.focus();
}

/** showContext shows which namespace of which cluster this is. */
function showContext() {
  ask("/api/context").then(({ namespace, context }) => {
    byID("context").textContent = `${namespace} in ${context}`;
  }, () => {}); // the list says what is wrong
}

/** load loads the page, at first or again. */
async function load() {
  shown?.abort();
  const { signal } = shown = new AbortController();
  const hash = location.hash;
  const [pattern, show] = pages.find(([pattern]) => pattern.test(hash));
  try {
    const [title, nodes] = await show(signal, ...pattern.exec(hash).slice(1));
    if (!signal.aborted) {
      document.title = `${title} – NetBox events`;
      page.replaceChildren(...nodes);
      keepFocus();
    }
  } catch (error) {
    if (!signal.aborted) {
      page.replaceChildren(el("p", { class: "problem", role: "alert" }, error.message),
        el("button", { type: "button", click: load }, "Try again"));
    }
  }
}

/** keepFocus focuses the page if what had the focus was replaced. */
function keepFocus() {
  if (document.activeElement === document.body) {
    page.focus({ preventScroll: true });
  }
}

/** refresh loads the event that is shown again if it has changed. */
function refresh(messages) {
  if (shownUID && messages.some(({ row, gone }) => row?.uid === shownUID || gone === shownUID)) {
    const { scrollTop } = page;
    load().then(() => { page.scrollTop = scrollTop; });
  }
}

/** replay asks whether to replay an event, or one rule on it, and does so. */
async function replay(name, rule) {
  const path = `/api/events/${encodeURIComponent(name)}/replay?${new URLSearchParams(rule ? { rule } : {})}`;
  const title = rule ? `Replay rule ${rule} on ${name}?` : `Replay ${name}?`;
  const close = () => dialog.close();
  const fail = (error) => fillDialog("This event cannot be replayed", el("p", { class: "problem", role: "alert" }, error.message),
    el("button", { type: "button", autofocus: true, click: close }, "Close"));
  try {
    const { text } = await ask(`${path}&dryRun=true`, { method: "POST" });
    fillDialog(title, el("p", {}, text),
      el("button", { type: "button", class: "primary", click: confirm }, "Replay"), " ",
      el("button", { type: "button", autofocus: true, click: close }, "Cancel"));
  } catch (error) {
    fail(error);
  }

  async function confirm() {
    try {
      await ask(path, { method: "POST" });
      close();
      say("The replay is requested.");
    } catch (error) {
      fail(error);
    }
  }
}

function fillDialog(title, ...nodes) {
  dialog.replaceChildren(el("h2", { id: "ask-title" }, title), ...nodes);
  if (!dialog.open) {
    dialog.showModal();
  }
  dialog.querySelector("[autofocus]").focus();
}

let silence; // the timer that removes what was said

function say(text) {
  byID("said").textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { byID("said").textContent = ""; }, 5000);
}

dialog.addEventListener("close", keepFocus);

// The filter.

const isWide = matchMedia("(min-width: 50rem)").matches;
byID("filters").open = isWide;

function fillForm(hash) {
  const filter = new URLSearchParams(hash.split("?")[1]);
  for (const field of form.querySelectorAll("[name]")) {
    field.value = filter.get(field.name) ?? "";
  }
  byID("filters").querySelector("summary").textContent = filter.size > 0 ? `Filter (${filter.size})` : "Filter";
}

function applyForm() {
  const filter = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim() !== "").map(([name, value]) => [name, value.trim()]));
  location.hash = filter.size > 0 ? `#/events?${filter}` : "#/events";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  applyForm();
  list.focus();
});
form.elements.state.addEventListener("change", applyForm);
form.addEventListener("reset", (event) => {
  event.preventDefault();
  location.hash = "#/events";
});
form.addEventListener("focusin", ({ target }) => {
  target.list?.replaceChildren(...list.values(target.name).slice(0, 200).map((value) => el("option", { value })));
});

// Keys.

addEventListener("keydown", (event) => {
  const isInput = event.target.matches("input, select");
  if (dialog.open || event.ctrlKey || event.altKey || event.metaKey) {
    return;
  }
  if (event.key === "/" && !isInput) {
    location.hash = listHash;
    byID("events").hidden = false;
    byID("filters").open = true;
    setTimeout(() => form.elements.object.focus()); // after the list, which the route focuses
  } else if (event.key === "Escape" && isInput) {
    list.focus();
  } else if (event.key === "Escape") {
    location.hash = listHash;
  } else {
    return;
  }
  event.preventDefault();
});

addEventListener("hashchange", route);
if (!location.hash) {
  history.replaceState(null, "", listHash);
}
route();
