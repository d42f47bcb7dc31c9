import { moment, zone } from "./dom.js";

const columns = ["received", "event", "type", "object", "user", "branch", "changed", "phase"];
const overscan = 10; // rows that are made above and below those in view

/**
 * List shows any number of events, the newest first. Only those in view are elements, which are used again as it scrolls. Its focus is the
 * grid's; the active row is where the arrow keys are.
 */
export class List {
  #grid;
  #head;
  #space;
  #nodes = new Map(); // the elements of the rows in view
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
    this.#head = grid.querySelector(".head");
    this.#space = grid.querySelector(".space");
    this.#open = open;
    this.#head.querySelector(".received").textContent += ` (${zone})`;
    grid.addEventListener("scroll", () => this.#schedule());
    new ResizeObserver(() => this.#schedule()).observe(grid);
    grid.addEventListener("keydown", (event) => this.#press(event));
    grid.addEventListener("focus", () => this.#active ?? this.#activate(this.#first()));
    grid.addEventListener("click", (event) => {
      const node = event.target.closest("[aria-selected]");
      if (node) {
        this.#active = node.shown;
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
    this.#grid.scrollTop = 0;
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
    const offset = this.#grid.scrollTop - this.#first() * this.#height();
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
    if (this.#grid.scrollTop > 0 && (isNew || isLess)) {
      const at = this.#rows.indexOf(top);
      this.#resize();
      if (at >= 0) {
        this.#grid.scrollTop = at * this.#height() + offset;
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

  // #inView returns the height of what is below the head, which stays at the top.
  #inView() {
    return this.#grid.clientHeight - this.#head.offsetHeight;
  }

  #first() {
    return Math.floor(this.#grid.scrollTop / this.#height());
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
    const from = Math.max(0, this.#first() - overscan);
    const rows = this.#rows.slice(from, from + Math.ceil(this.#grid.clientHeight / height) + 2 * overscan);
    const isInView = new Set(rows);
    const free = [];
    for (const [row, node] of this.#nodes) {
      if (!isInView.has(row)) {
        this.#nodes.delete(row);
        free.push(node);
      }
    }
    rows.forEach((row, i) => {
      let node = this.#nodes.get(row);
      if (!node) {
        node = free.pop() ?? this.#space.appendChild(makeRow());
        this.#nodes.set(row, node);
      }
      fill(node, from + i, row, row === this.#active, height);
    });
    free.forEach((node) => node.remove());
    this.#resize();
    this.#grid.setAttribute("aria-rowcount", this.#rows.length + 1);
    const active = this.#nodes.get(this.#active);
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
    const lowest = (index + 1) * height - this.#inView();
    this.#grid.scrollTop = Math.max(lowest, Math.min(this.#grid.scrollTop, index * height));
    this.#schedule();
  }

  #press(event) {
    const at = this.#rows.indexOf(this.#active);
    const page = Math.max(1, Math.floor(this.#inView() / this.#height()) - 1);
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

let made = 0; // number of elements, for their ids

function makeRow() {
  const node = document.createElement("div");
  node.id = `row-${++made}`;
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

// fill shows a row, as far as the element does not show it already.
function fill(node, index, row, isActive, height) {
  node.setAttribute("aria-selected", isActive);
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
