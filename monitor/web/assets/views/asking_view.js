/* What views share that ask for a document: they ask again when something happened, not too often, and
   say what went wrong only while they have nothing to show. */

import { get } from "../api.js";
import { forgetCharts } from "../charts.js";
import { h, plain, replace } from "../dom.js";

export class AskingView {
  /**
   * @param {object} app The page.
   * @param {string} path What is asked for.
   * @param {number} pause Milliseconds between two answers, at least.
   */
  constructor(app, path, pause) {
    this.app = app;
    this.path = path;
    this.pause = pause;
    this.body = h("div", {}, h("p", { class: "soft" }, "Asking\u2026")); // what an answer is shown in
    this.loadedAt = 0;
    this.timer = 0;
    this.gone = false;
    this.drawn = "";
  }

  onSnapshot() {
    this.again();
  }

  leave() {
    clearTimeout(this.timer);
    this.gone = true;
    forgetCharts(this.element);
  }

  /** Ask again, after a pause. */
  again() {
    if (this.timer || this.gone) return;
    this.timer = setTimeout(() => this.load(), Math.max(100, this.loadedAt + this.pause - Date.now()));
  }

  async load() {
    try {
      const found = await get(this.path);
      if (!this.gone) this.#changed(found);
    } catch (error) {
      if (!this.gone && !this.loadedAt) {
        replace(this.body, h("p", { class: "trouble", role: "alert" }, plain(error.message)));
      }
    } finally {
      this.loadedAt = Date.now();
      this.timer = 0;
    }
  }

  /* The same answer as before is not drawn again. */
  #changed(found) {
    const drawn = JSON.stringify(found);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    forgetCharts(this.body);
    this.show(found);
  }
}
