import { ask } from "./api.js";
import { age, el, table, toned } from "./dom.js";

const tones = { True: "good", False: "bad" };

function status(value) {
  return value && toned(value, tones[value] ?? "busy");
}

function link(text, filter) {
  return el("a", { href: `#/events?${new URLSearchParams(filter)}` }, text);
}

// count links a number to the events, if there are any.
function count(number, filter, tone) {
  return number > 0 ? el("span", { class: tone && `tone ${tone}` }, link(number, filter)) : "0";
}

/** showRules returns the elements of the page of rules. */
export async function showRules(signal) {
  const found = await ask("/api/overview", { signal });
  return [
    ...findings(found.wrong, (about) => about.startsWith("rule ")),
    el("h2", {}, "Rules"),
    found.rules.length === 0 ? el("p", { class: "dim" }, "There are none.")
      : table("Rules", ["Rule", "Ready", "Reason", "Matched", "Failed", "Last matched", "Sinks"], found.rules.map((rule) => [
        link(rule.name, { rule: rule.name }), status(rule.ready), rule.reason, count(rule.matched, { rule: rule.name }),
        count(rule.failed, { rule: rule.name, state: "failed" }, "bad"), age(rule.lastMatched),
        rule.sinks && toned(rule.sinks, rule.sinks === "Available" ? "good" : "bad"),
      ])),
  ];
}

/** showSources returns the elements of the page of sources, and of the operator. */
export async function showSources(signal) {
  const found = await ask("/api/overview", { signal });
  const sourceColumns = ["Source", "Ready", "Reason", "Last delivery", "Pending", "Oldest", "Failed", "Keys", "NetBox", "Receiving"];
  return [
    ...findings(found.wrong, (about) => !about.startsWith("rule ")),
    el("h2", {}, "Sources"),
    found.sources.length === 0 ? el("p", { class: "dim" }, "There are none.")
      : table("Sources", sourceColumns, found.sources.map((source) => [
        link(source.name, { source: source.name }), status(source.ready), source.reason, age(source.lastDelivery),
        count(source.pending, { source: source.name, state: "pending" }), age(source.oldestPending),
        count(source.failed, { source: source.name, state: "failed" }, "bad"), source.keys?.join(", "), source.netbox,
        status(source.receiving),
      ])),
    ...(found.refused ? [
      el("h2", {}, "Refused deliveries of the last hour"),
      table("Refused deliveries", ["Source", "Reason", "Last", "Delivery"], found.refused.map((refused) =>
        [refused.source, toned(refused.reason, "bad"), age(refused.last), refused.note])),
    ] : []),
    ...(found.operators ? [
      el("h2", {}, "Operator"),
      table("Operators", ["Operator", "Version", "Replicas ready", "Leader"], found.operators.map((operator) =>
        [`${operator.namespace}/${operator.name}`, operator.version, `${operator.ready} of ${operator.replicas}`, operator.leader])),
    ] : []),
    ...(found.unknown ? [el("h2", {}, "Not shown"), el("ul", { class: "dim" }, found.unknown.map((text) => el("li", {}, text)))] : []),
  ];
}

// findings returns what is wrong, with the next steps.
function findings(wrong, isShown) {
  const shown = (wrong ?? []).filter(({ about }) => isShown(about));
  return shown.length === 0 ? [el("p", {}, toned("Nothing is wrong.", "good"))] : [
    el("h2", {}, "Wrong"),
    el("ul", { class: "findings" }, shown.map(({ about, problem, next }) =>
      el("li", {}, el("p", {}, el("strong", {}, about), `: ${problem}`), el("p", {}, el("span", { class: "kind" }, "Next"), ` ${next}`)))),
  ];
}
