import { moment } from "./dom.js";

const columns = ["received", "event", "type", "object", "user", "branch", "changed", "phase"];
const overscan = 10; // rows that are made above and below those in view

/**
 * List shows any number of events, the newest first. Only those in view are elements, which are used again as it scrolls. Its focus is the
 * grid's; the active row is where the arrow keys are.
 */
export class List {
  #grid;
  #body;
  #space;
  #nodes = []; // that of row i is at i modulo their number
  #rows = []; // sorted
  #byUID = new Map();
  #active = null;
  #listing = 0; // number of the current list
  #change = 0;
  #isScheduled = false;
  #open;

  /** open is called with the event that was chosen. */
  constructor(grid, open) {
    this.#grid = grid;
    this.#body = grid.querySelector(".body");
    this.#space = grid.querySelector(".space");
    this.#open = open;
    this.#body.addEventListener("scroll", () => this.#schedule());
    new ResizeObserver(() => this.#schedule()).observe(this.#body);
    grid.addEventListener("keydown", (event) => this.#press(event));
    grid.addEventListener("focus", () => this.#active ?? this.#activate(this.#first()));
    grid.addEventListener("click", (event) => {
      const node = event.target.closest("[aria-selected]");
      if (node) {
        this.#active = this.#rows[node.index];
        this.#open(this.#active);
      }
    });
  }

  get length() {
    return this.#rows.length;
  }

  clear() {
    this.#rows = [];
    this.#byUID.clear();
    this.#active = null;
    this.#body.scrollTop = 0;
    this.#schedule();
  }

  /** values returns the values of a column, for completion. */
  values(column) {
    return [...new Set(this.#rows.map((row) => row[column]))].filter(Boolean).sort();
  }

  focus() {
    this.#grid.focus();
  }

  /** apply applies messages of the server. What is in view stays there, unless that is the top. */
  apply(messages) {
    const top = this.#rows[this.#first()];
    const offset = this.#body.scrollTop - this.#first() * this.#height();
    let isNew = false;
    let isLess = false;
    for (const message of messages) {
      if (message.listing) {
        this.#listing++;
      } else if (message.row) {
        isNew = this.#put(message.row) || isNew;
      } else if (message.gone) {
        isLess = this.#byUID.delete(message.gone) || isLess;
      } else if (message.listed) {
        for (const row of this.#rows) {
          if (row.listing < this.#listing && this.#byUID.delete(row.uid)) {
            isLess = true;
          }
        }
      }
    }
    if (isLess) {
      const at = this.#rows.indexOf(this.#active);
      this.#rows = this.#rows.filter((row) => this.#byUID.get(row.uid) === row);
      if (at >= 0 && this.#byUID.get(this.#active.uid) !== this.#active) {
        this.#active = this.#rows[Math.min(at, this.#rows.length - 1)] ?? null;
      }
    }
    if (isNew) {
      this.#rows.sort(newestFirst);
    }
    if (this.#body.scrollTop > 0 && (isNew || isLess)) {
      const at = this.#rows.indexOf(top);
      this.#resize();
      if (at >= 0) {
        this.#body.scrollTop = at * this.#height() + offset;
      }
    }
    this.#schedule();
  }

  // #put reports whether the row is new.
  #put(row) {
    row.listing = this.#listing;
    row.change = ++this.#change;
    const known = this.#byUID.get(row.uid);
    if (known) {
      Object.assign(known, row);
      return false;
    }
    this.#byUID.set(row.uid, row);
    this.#rows.push(row);
    return true;
  }

  #height() {
    return parseFloat(getComputedStyle(this.#space).getPropertyValue("--row"));
  }

  #first() {
    return Math.floor(this.#body.scrollTop / this.#height());
  }

  #resize() {
    this.#space.style.height = `${this.#rows.length * this.#height()}px`;
  }

  #schedule() {
    if (!this.#isScheduled) {
      this.#isScheduled = true;
      requestAnimationFrame(() => {
        this.#isScheduled = false;
        this.#render();
      });
    }
  }

  #render() {
    const height = this.#height();
    const inView = Math.ceil(this.#body.clientHeight / height);
    while (this.#nodes.length < inView + 2 * overscan) {
      const node = makeRow(this.#nodes.length);
      this.#nodes.push(node);
      this.#space.append(node);
    }
    this.#resize();
    this.#grid.setAttribute("aria-rowcount", this.#rows.length + 1);
    const from = Math.max(0, this.#first() - overscan);
    for (let index = from; index < from + this.#nodes.length; index++) {
      fill(this.#nodes[index % this.#nodes.length], index, this.#rows[index], this.#active, height);
    }
    const active = this.#nodes.find((node) => !node.hidden && this.#rows[node.index] === this.#active);
    if (active) {
      this.#grid.setAttribute("aria-activedescendant", active.id);
    } else {
      this.#grid.removeAttribute("aria-activedescendant");
    }
  }

  #activate(index) {
    index = Math.max(0, Math.min(index, this.#rows.length - 1));
    this.#active = this.#rows[index] ?? null;
    const height = this.#height();
    const lowest = (index + 1) * height - this.#body.clientHeight;
    this.#body.scrollTop = Math.max(lowest, Math.min(this.#body.scrollTop, index * height));
    this.#schedule();
  }

  #press(event) {
    const at = this.#rows.indexOf(this.#active);
    const page = Math.max(1, Math.floor(this.#body.clientHeight / this.#height()) - 1);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: this.#rows.length - 1 };
    if (event.ctrlKey || event.altKey || event.metaKey) {
      return;
    }
    if (event.key in moves) {
      this.#activate(moves[event.key]);
    } else if (event.key === "Enter" && this.#active) {
      this.#open(this.#active);
    } else {
      return;
    }
    event.preventDefault();
  }
}

function newestFirst(a, b) {
  return compare(b.received, a.received) || compare(b.sent, a.sent) || compare(b.name, a.name);
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

function makeRow(number) {
  const node = document.createElement("div");
  node.id = `row-${number}`;
  node.className = "row";
  node.setAttribute("role", "row");
  for (const column of columns) {
    const cell = document.createElement("span");
    cell.className = column;
    cell.setAttribute("role", "gridcell");
    node.append(cell);
  }
  return node;
}

// fill shows a row, if the element does not show it already.
function fill(node, index, row, active, height) {
  node.hidden = !row;
  if (!row) {
    node.shown = undefined;
    return;
  }
  node.setAttribute("aria-selected", row === active);
  if (node.index !== index || node.height !== height) {
    node.style.transform = `translateY(${index * height}px)`;
    node.setAttribute("aria-rowindex", index + 2); // the first is the head
    [node.index, node.height] = [index, height];
  }
  if (node.shown === row && node.change === row.change) {
    return;
  }
  [node.shown, node.change] = [row, row.change];
  for (const cell of node.children) {
    const column = cell.className.split(" ")[0];
    if (column === "phase") {
      cell.className = `phase tone ${row.phase.tone}`;
      cell.textContent = row.phase.text;
    } else {
      cell.textContent = column === "received" ? moment(row.received) : row[column];
      cell.title = cell.textContent;
    }
  }
}
