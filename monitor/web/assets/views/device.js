/* One device: what it is, what it does, what it earned, and why. */

import { deviceButtons, offered } from "../actions.js";
import { get } from "../api.js";
import { forgetCharts } from "../charts.js";
import { h, plain, quoted, replace, setText } from "../dom.js";
import { linkBadge } from "../icons.js";
import { section } from "../lists.js";
import { address } from "../router.js";
import { errors, facts, history, models, notes, profile, rounds, timeline } from "./device_parts.js";

const AGAIN_MS = 3000; // a busy device changes every second; its page need not

export class DeviceView {
  constructor(app, name) {
    this.app = app;
    this.name = name;
    this.title = plain(name);
    this.element = h("div", { class: "device" });
    this.head = h("div", { class: "head" });
    this.body = h("div", {}, h("p", { class: "soft" }, "Asking\u2026"));
    this.why = h("div", { class: "why" });
    this.buttons = h("div");
    this.offered = null;
    this.loadedAt = 0;
    this.timer = 0;
    replace(this.element, this.head, this.buttons, this.body);
    this.#showHead();
    this.#load();
  }

  onSnapshot() {
    this.#showHead();
    this.#again();
  }

  onDevices({ changed }) {
    if (!changed.some((row) => row.device === this.name)) return;
    this.#showHead();
    this.#again();
  }

  leave() {
    clearTimeout(this.timer);
    this.timer = -1;
    forgetCharts(this.element);
  }

  #again() {
    if (this.timer) return;
    this.timer = setTimeout(() => this.#load(), Math.max(200, this.loadedAt + AGAIN_MS - Date.now()));
  }

  #showHead() {
    const row = this.app.live.rows.get(this.name);
    replace(
      this.head,
      h("p", { class: "crumbs" }, h("a", { href: address("fleet") }, "Fleet"), " / device"),
      h("h1", {}, quoted(this.name), row && [" ", linkBadge(row.link)]),
    );
    const now = row ? offered(this.app, row) : "";
    if (now !== this.offered) {
      // a button that is made anew loses the focus
      this.offered = now;
      replace(this.buttons, row ? deviceButtons(this.app, row) : null);
    }
  }

  async #load() {
    const first = this.loadedAt === 0;
    try {
      const found = await get(`api/devices/${encodeURIComponent(this.name)}`);
      if (this.timer === -1) return;
      this.#show(found);
      if (first || this.reward !== JSON.stringify(found.reward)) this.#explain();
      this.reward = JSON.stringify(found.reward);
    } catch (error) {
      if (first) replace(this.body, h("p", { class: "trouble", role: "alert" }, plain(error.message)));
    } finally {
      this.loadedAt = Date.now();
      if (this.timer !== -1) this.timer = 0;
    }
  }

  #show(found) {
    const open = [...this.body.querySelectorAll("details[open]")].map((one) => one.dataset.part);
    const scrolled = document.scrollingElement.scrollTop;
    forgetCharts(this.body);
    replace(
      this.body,
      facts(found),
      section("Why this width", this.why),
      models(found),
      rounds(found),
      profile(found),
      history(found),
      errors(found),
      notes(found),
      timeline(found),
    );
    this.body.querySelectorAll("details[data-part]").forEach((one) => {
      one.open = open.includes(one.dataset.part);
    });
    document.scrollingElement.scrollTop = scrolled;
  }

  /* The whole journal is read for it: asked once, and again when the reward changed. */
  async #explain() {
    if (!this.why.firstChild) setText(this.why, "Asking\u2026");
    try {
      const found = await get(`api/devices/${encodeURIComponent(this.name)}/explain`);
      const text = Array.isArray(found.text) ? found.text.join("\n") : String(found.text ?? "");
      replace(
        this.why,
        h(
          "pre",
          { class: "explanation", tabindex: "0", "aria-label": "Explanation" },
          text.split("\n").map((line) => `${plain(line)}\n`),
        ),
      );
    } catch (error) {
      replace(this.why, h("p", { class: "soft" }, plain(error.message)));
    }
  }
}
