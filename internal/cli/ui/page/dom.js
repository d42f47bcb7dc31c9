// Elements and texts. Text becomes a text node, never HTML: names come from NetBox.

/** el makes an element. Attributes that are functions listen to the event of their name; those that are undefined or false are left out. */
export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") {
      node.addEventListener(name, value);
    } else if (value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return node;
}

/** toned makes a state with its color. */
export function toned(text, tone) {
  return el("span", { class: `tone ${tone ?? ""}` }, text);
}

const format = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" }); // 2026-11-23 19:00:00

/** zone is the name of the time zone of the browser. */
export const zone = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts().find(({ type }) => type === "timeZoneName").value;

/** moment writes a time in the time zone of the browser. */
export function moment(time) {
  return format.format(new Date(time));
}

/** age makes how long ago a time is; nothing for no time. */
export function age(time) {
  if (!time) {
    return undefined;
  }
  const seconds = Math.max(0, Math.round((Date.now() - new Date(time)) / 1000));
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]].find(([size]) => seconds >= 2 * size) ?? [1, "s"];
  return el("time", { datetime: time, title: moment(time) }, `${Math.floor(seconds / size)}${unit} ago`);
}

/** table makes a table whose rows become cards where it does not fit. The cells are texts or nodes. */
export function table(label, columns, rows) {
  const isEmpty = (cell) => cell === undefined || cell === null || cell === "";
  return el("table", { "aria-label": label },
    el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col" }, column)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) =>
      el("td", { "data-column": columns[i], class: isEmpty(cell) ? "empty" : undefined }, isEmpty(cell) ? "–" : cell))))));
}
