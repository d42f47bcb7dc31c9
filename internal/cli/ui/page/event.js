import { ask } from "./api.js";
import { el, table, toned } from "./dom.js";

/** showEvent returns the elements of the page of an event. replay(name, rule) is called to replay it. */
export async function showEvent(name, signal, replay) {
  const path = `/api/events/${encodeURIComponent(name)}`;
  const tracing = ask(`${path}/trace`, { signal }).catch((error) => error);
  const event = await ask(path, { signal });
  const trace = await tracing;
  return {
    uid: event.uid,
    title: event.summary,
    nodes: [
      el("div", { class: "title" },
        el("h2", {}, event.summary, " ", toned(event.phase.text, event.phase.tone)),
        el("button", { type: "button", click: () => replay(name) }, "Replay…")),
      el("dl", {}, event.facts.flatMap(([term, value]) => [el("dt", {}, term.text), el("dd", {}, value.text)])),
      section("Changes", event.changes?.length > 0 && changes(event.changes), "No field changed, or NetBox sent no earlier state."),
      section("Deliveries", event.deliveries.length > 0 && deliveries(event), "No rule matched; the trace says why."),
      section("Trace", trace instanceof Error ? el("p", { class: "problem" }, trace.message)
        : el("ul", { class: "trace" }, traced(trace, (rule) => replay(name, rule)))),
      section("Data", event.data && el("pre", { tabindex: 0, "aria-label": "Data" }, event.data), "NetBox sent none."),
    ],
  };
}

function section(heading, content, otherwise) {
  return el("section", {}, el("h3", {}, heading), content || el("p", { class: "dim" }, otherwise));
}

function changes(changed) {
  const shown = table("Changes", ["Field", "Before", "After"], changed.map(({ field, before, after }) =>
    [el("code", {}, field), el("code", { class: "before" }, before), el("code", { class: "after" }, after)]));
  shown.className = "changes";
  return shown;
}

function deliveries(event) {
  const columns = event.columns.map((column) => column[0] + column.slice(1).toLowerCase());
  return table("Deliveries", columns, event.deliveries.map((row) => row.map(({ text, tone }) => text && (tone ? toned(text, tone) : text))));
}

// traced returns the item of a node. Of rules that matched, or would now, it has a button.
function traced(node, replay) {
  const canReplay = node.kind === "rule" && node.state.startsWith("match");
  return el("li", {},
    el("p", {},
      el("span", { class: "kind" }, node.kind), " ", el("strong", {}, node.name), " ", toned(node.state, node.tone),
      node.text && el("span", { class: "text" }, ` ${node.text}`),
      canReplay && el("button", { type: "button", class: "small", "aria-label": `Replay rule ${node.name}…`, click: () => replay(node.name) },
        "Replay rule…") || null),
    node.lines?.length > 0 ? el("pre", {}, node.lines.join("\n")) : null,
    node.children ? el("ul", {}, node.children.map((child) => traced(child, replay))) : null);
}
