/* A table of many rows: rows keep their elements, and only cells that changed are written. Roles are
   written out, because a style that lays rows out as grids takes away those that tables have. */

import { h, setAttribute } from "./dom.js";

const CHUNK = 60; // rows that are made at a time: more would hold up the first paint

/**
 * @typedef {object} Column
 * @property {string} key Of the column, also in the address.
 * @property {string} title Its head.
 * @property {string} [group] Head above it, shared with its neighbours.
 * @property {string} [hint] What it says, in a sentence.
 * @property {string} [kind] "number" stands to the right.
 * @property {function(object): *} value What it is sorted by; null goes to the end.
 * @property {function(object): (string|Node)} [show] What stands in the cell; the value where absent.
 * @property {function(object): string} [mark] Changes when the cell must be written anew.
 */

export class Table {
  /**
   * @param {Column[]} columns The first one names the row.
   * @param {object} options `key`: row -> its name; `open`: what a click on a row does; `caption`;
   *   `sort`, `descending`: at first; `sorted`: is told of a new order; `section`: row -> heading
   *   that it stands below, or null.
   */
  constructor(columns, options) {
    this.columns = columns;
    this.options = options;
    this.sort = options.sort ?? columns[0].key;
    this.descending = options.descending ?? false;
    this.lines = new Map();
    this.rows = [];
    this.pending = 0;
    this.body = h("tbody", { role: "rowgroup" });
    this.heads = new Map();
    this.table = h(
      "table",
      { class: `grid ${options.class ?? ""}`, role: "table" },
      h("caption", { class: "unseen" }, options.caption),
      this.#head(),
      this.body,
    );
    this.element = h(
      "div",
      { class: "wide", role: "region", "aria-label": options.caption, tabindex: "0" },
      this.table,
    );
  }

  #head() {
    const groups = [];
    for (const column of this.columns) {
      const last = groups.at(-1);
      if (last && column.group && last.group === column.group) last.span += 1;
      else groups.push({ group: column.group ?? "", span: 1 });
    }
    const top = groups.map(({ group, span }) =>
      group
        ? spread(
            h("th", { colspan: span, scope: "colgroup", role: "columnheader", class: "over" }, group),
            span,
          )
        : spread(h("td", { colspan: span, role: "presentation", class: "over none" }), span),
    );
    const cells = this.columns.map((column) => this.#headCell(column));
    const line = { role: "row" };
    return h(
      "thead",
      { role: "rowgroup" },
      groups.some((one) => one.group) && h("tr", line, top),
      h("tr", line, cells),
    );
  }

  #headCell(column) {
    const button = h(
      "button",
      { type: "button", class: "sort", title: column.hint, on: { click: () => this.order(column) } },
      column.title,
      h("span", { class: "arrow", "aria-hidden": "true" }),
    );
    const cell = h("th", { scope: "col", role: "columnheader", class: this.#classOf(column) }, button);
    this.heads.set(column.key, cell);
    return cell;
  }

  #classOf(column) {
    return [`c-${column.key}`, column.kind === "number" && "n"].filter(Boolean).join(" ");
  }

  /** Sort by a column, and the other way round when it is sorted by it already. */
  order(column) {
    this.descending = this.sort === column.key ? !this.descending : column.kind === "number";
    this.sort = column.key;
    this.show(this.rows);
    this.options.sorted?.(this.sort, this.descending);
  }

  /** Show these rows in this table's order; elements of rows that it knows are kept. */
  show(rows) {
    this.rows = rows;
    for (const [key, cell] of this.heads) {
      setAttribute(
        cell,
        "aria-sort",
        key === this.sort ? (this.descending ? "descending" : "ascending") : null,
      );
    }
    const sorted = this.#ordered(rows);
    const wanted = new Set(sorted.map((row) => this.options.key(row)));
    for (const [key, line] of this.lines) {
      if (!wanted.has(key)) {
        line.element.remove();
        this.lines.delete(key);
      }
    }
    cancelAnimationFrame(this.pending);
    for (const heading of this.body.querySelectorAll("tr.section")) heading.remove();
    this.#place(sorted, 0, null, "");
  }

  /* Puts rows in their places, so many at a time that the page stays quick. `last` is the element
     of the row before. */
  #place(sorted, from, last, section) {
    let made = 0;
    let at = from;
    for (; at < sorted.length && made < CHUNK; at += 1) {
      const row = sorted[at];
      const heading = this.options.section?.(row) ?? null;
      if (heading !== null && (last === null || heading.key !== section)) {
        last = this.#after(last, this.#sectionLine(heading));
        section = heading.key;
      }
      if (!this.lines.has(this.options.key(row))) made += 1;
      last = this.#after(last, this.#line(row).element);
    }
    this.table.setAttribute("aria-rowcount", String(sorted.length));
    if (at < sorted.length) {
      this.pending = requestAnimationFrame(() => this.#place(sorted, at, last, section));
    } else {
      this.pending = 0;
    }
  }

  #after(last, element) {
    const next = last === null ? this.body.firstChild : last.nextSibling;
    if (next !== element) this.body.insertBefore(element, next);
    return element;
  }

  #sectionLine(heading) {
    return h(
      "tr",
      { class: "section", role: "row" },
      h("th", { colspan: this.columns.length, scope: "rowgroup", role: "rowheader" }, heading.content()),
    );
  }

  /** Write what changed in rows that are shown and keep their places; others are left alone. */
  update(rows) {
    for (const row of rows) {
      if (this.lines.has(this.options.key(row))) this.#line(row);
    }
  }

  #line(row) {
    const key = this.options.key(row);
    let line = this.lines.get(key);
    if (!line) {
      line = this.#newLine(row);
      this.lines.set(key, line);
    }
    if (line.row === row) return line;
    line.row = row;
    this.columns.forEach((column, at) => {
      const mark = column.mark
        ? column.mark(row)
        : String(column.show ? column.show(row) : column.value(row));
      if (line.marks[at] === mark) return;
      line.marks[at] = mark;
      const content = column.show ? column.show(row) : column.value(row);
      line.cells[at].replaceChildren(content instanceof Node ? content : String(content ?? ""));
    });
    return line;
  }

  #newLine(row) {
    const cells = this.columns.map((column, at) =>
      at === 0
        ? h("th", { scope: "row", role: "rowheader", class: this.#classOf(column) })
        : h("td", { role: "cell", class: this.#classOf(column) }),
    );
    const element = h("tr", { role: "row" }, cells);
    const line = { element, cells, marks: [], row: null };
    const { open } = this.options;
    if (open) {
      element.tabIndex = 0;
      element.classList.add("opens");
      element.addEventListener("click", (event) => {
        if (!event.target.closest("a, button") && !String(getSelection())) open(line.row);
      });
      element.addEventListener("keydown", (event) => {
        if (event.target === element) this.#key(event, line, open);
      });
    }
    return line;
  }

  #key(event, line, open) {
    if (event.key === "Enter") {
      open(line.row);
      return;
    }
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!step) return;
    let next = line.element[step];
    while (next && next.tabIndex < 0) next = next[step];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }

  #ordered(rows) {
    const column = this.columns.find((one) => one.key === this.sort) ?? this.columns[0];
    const turn = this.descending ? -1 : 1;
    const keyed = rows.map((row) => ({
      row,
      section: this.options.section?.(row)?.key ?? "",
      value: column.value(row),
      name: this.options.key(row),
    }));
    keyed.sort(
      (a, b) =>
        compare(a.section, b.section) ||
        missingLast(a.value, b.value) ||
        turn * compare(a.value, b.value) ||
        compare(a.name, b.name),
    );
    return keyed.map((one) => one.row);
  }
}

/* In a table whose rows are grids the attribute does nothing. */
function spread(cell, columns) {
  cell.style.gridColumn = `span ${columns}`;
  return cell;
}

function isMissing(value) {
  return value === null || value === undefined || value === "" || Number.isNaN(value);
}

function missingLast(a, b) {
  return Number(isMissing(a)) - Number(isMissing(b));
}

const WORDS = new Intl.Collator(undefined, { numeric: true });

function compare(a, b) {
  if (isMissing(a) && isMissing(b)) return 0;
  return typeof a === "string" || typeof b === "string"
    ? WORDS.compare(String(a), String(b))
    : Math.sign(a - b);
}
