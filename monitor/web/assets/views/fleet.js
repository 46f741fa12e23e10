/* The fleet table: who is there, who takes part, what each runs, and what is wrong. */

import { fleetButtons } from "../actions.js";
import { h, quoted, replace, setText } from "../dom.js";
import { counted } from "../format.js";
import { sign } from "../icons.js";
import { moments } from "../lists.js";
import { go, note } from "../router.js";
import { Table } from "../table.js";
import { COLUMNS } from "./fleet_columns.js";

const ALARMED = "alarms";
const LINKS = ["online", "late", "stale", "offline", "never-seen", "suspended", "retired"];
const SEARCHED = [
  "device",
  "site",
  "link",
  "link_cause",
  "takes_part",
  "reason",
  "release",
  "agent",
  "emulated",
  "useful",
  "last_error",
];
const SORT_AGAIN_MS = 5000; // rows that jump under the pointer cannot be clicked

export class FleetView {
  title = "Fleet";

  constructor(app, _, parameters) {
    this.app = app;
    this.text = parameters.get("q") ?? "";
    this.state = parameters.get("state") ?? "";
    this.site = parameters.get("group") === "site";
    const sort = parameters.get("sort") ?? "device";
    this.table = new Table(COLUMNS, {
      class: "fleet",
      caption: "Devices of the fleet",
      key: (row) => row.device,
      open: (row) => go("device", row.device),
      sort: COLUMNS.some((column) => column.key === sort) ? sort : "device",
      descending: parameters.get("down") === "1",
      sorted: () => this.#note(),
      section: (row) => (this.site ? this.#section(row) : null),
    });
    this.moments = h("div", { class: "halves" });
    this.buttons = h("div");
    this.chips = h("div", { class: "chips", role: "group", "aria-label": "Show devices by state" });
    this.count = h("p", { class: "count soft", role: "status" });
    this.element = h(
      "div",
      {},
      h("h1", {}, "Fleet"),
      this.chips,
      this.#controls(),
      this.count,
      this.table.element,
      this.moments,
    );
    this.shownAt = 0;
    this.timer = 0;
    if (app.live.overview) this.onSnapshot();
    else setText(this.count, "Waiting for the fleet\u2026");
  }

  #controls() {
    const search = h("input", {
      type: "search",
      value: this.text,
      id: "search",
      placeholder: "name, site, reason, release\u2026",
      autocomplete: "off",
      on: {
        input: (event) => {
          this.text = event.target.value;
          this.#changed();
        },
      },
    });
    const group = h("input", {
      type: "checkbox",
      id: "by-site",
      checked: this.site,
      on: {
        change: (event) => {
          this.site = event.target.checked;
          this.#changed();
        },
      },
    });
    return h(
      "div",
      { class: "row controls" },
      h("label", { for: "search" }, "Filter"),
      search,
      h("span", { class: "check" }, group, h("label", { for: "by-site" }, "Group by site")),
      h("a", { class: "button", href: "api/devices.csv", download: "devices.csv" }, "Export CSV"),
      this.buttons,
    );
  }

  #changed() {
    this.#note();
    this.#show();
  }

  #note() {
    const sort = this.table.sort === "device" && !this.table.descending ? "" : this.table.sort;
    note("fleet", "", {
      q: this.text,
      state: this.state,
      group: this.site ? "site" : "",
      sort,
      down: this.table.descending ? "1" : "",
    });
  }

  onSnapshot() {
    this.#show();
    this.onOverview();
  }

  /* What concerns no single device. */
  onOverview() {
    const { notes, incidents, paused } = this.app.live.overview;
    const drawn = JSON.stringify([notes, incidents]);
    if (drawn !== this.drawn) {
      replace(
        this.moments,
        h("section", {}, h("h2", {}, "Notes"), moments(notes, "None about the whole fleet.")),
        h("section", {}, h("h2", {}, "Incidents"), moments(incidents, "None.")),
      );
    }
    this.drawn = drawn;
    const offered = `${Boolean(paused)} ${this.app.mayAct}`;
    if (offered !== this.offered) replace(this.buttons, fleetButtons(this.app));
    this.offered = offered;
  }

  /* Rows are written where they stand; the order follows after a moment, so that it does not jump. */
  onDevices({ changed, isNew }) {
    this.#showChips();
    this.table.update(changed);
    const wait = isNew ? 0 : Math.max(0, this.shownAt + SORT_AGAIN_MS - Date.now());
    if (!this.timer) this.timer = setTimeout(() => this.#show(), wait);
  }

  leave() {
    clearTimeout(this.timer);
  }

  #show() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.shownAt = Date.now();
    const rows = [...this.app.live.rows.values()];
    const words = this.text.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = rows.filter(
      (row) => this.#isIn(row) && words.every((word) => searchable(row).includes(word)),
    );
    this.sites = new Map();
    for (const row of shown) this.sites.set(row.site, (this.sites.get(row.site) ?? 0) + 1);
    this.#showChips();
    setText(
      this.count,
      shown.length === rows.length
        ? counted(rows.length, "device")
        : `${shown.length} of ${counted(rows.length, "device")}`,
    );
    this.table.show(shown);
  }

  #isIn(row) {
    if (!this.state) return true;
    return this.state === ALARMED ? (row.alarms ?? []).length > 0 : row.link === this.state;
  }

  #section(row) {
    const { sites } = this;
    return {
      key: row.site,
      content: () => [
        row.site ? quoted(row.site) : "no site",
        h("small", {}, ` ${counted(sites.get(row.site) ?? 0, "device")}`),
      ],
    };
  }

  #showChips() {
    const counts = new Map([["", 0], ...LINKS.map((link) => [link, 0]), [ALARMED, 0]]);
    for (const row of this.app.live.rows.values()) {
      counts.set("", counts.get("") + 1);
      counts.set(row.link, (counts.get(row.link) ?? 0) + 1);
      if ((row.alarms ?? []).length) counts.set(ALARMED, counts.get(ALARMED) + 1);
    }
    if (this.chips.childElementCount !== counts.size) {
      replace(
        this.chips,
        [...counts.keys()].map((state) => this.#chip(state)),
      );
    }
    for (const chip of this.chips.children) {
      setText(chip.querySelector("b"), String(counts.get(chip.value)));
      chip.setAttribute("aria-pressed", String(chip.value === this.state));
      chip.classList.toggle("empty", counts.get(chip.value) === 0);
    }
  }

  #chip(state) {
    const mark = state === "" ? "" : state === ALARMED ? "!" : sign(state);
    const words = state === "" ? "all" : state === ALARMED ? "with alarms" : state;
    return h(
      "button",
      {
        type: "button",
        class: `chip link-${state || "all"}`,
        value: state,
        on: {
          click: () => {
            this.state = this.state === state ? "" : state;
            this.#changed();
          },
        },
      },
      h("b", {}),
      h("span", { "aria-hidden": "true" }, mark ? ` ${mark}` : ""),
      ` ${words}`,
    );
  }
}

const texts = new WeakMap();

/* A row is never changed in place, so its text is put together once. */
function searchable(row) {
  let text = texts.get(row);
  if (text === undefined) {
    text = [
      ...SEARCHED.map((field) => row[field] ?? ""),
      ...(row.alarms ?? []),
      ...Object.values(row.labels ?? {}),
    ]
      .join(" ")
      .toLowerCase();
    texts.set(row, text);
  }
  return text;
}
