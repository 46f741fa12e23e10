/* Versions: what the devices say they run, now and over time. Devices that run nothing, something
   unknown or something that they did not confirm are shown like all others. */

import { get } from "../api.js";
import { barList } from "../bars.js";
import { chart, forgetCharts } from "../charts.js";
import { h, plain, quoted, replace } from "../dom.js";
import { counted, percent } from "../format.js";
import { badge } from "../icons.js";

const AGAIN_MS = 5000;
const KINDS = 6; // as many as there are colours; further ones are put together
const NONE = "none";

export class VersionsView {
  title = "Versions";

  constructor(app) {
    this.app = app;
    this.body = h("div", {}, h("p", { class: "soft" }, "Asking\u2026"));
    this.element = h("div", {}, h("h1", {}, "Versions"),
      h("p", { class: "lead" }, "Releases by what the devices report that they run. Unconfirmed: the device did not say so of the model that it was sent last."), this.body);
    this.timer = 0;
    this.loadedAt = 0;
    this.#load();
  }

  onSnapshot() { this.#again(); }

  onDevices() { this.#again(); }

  leave() {
    clearTimeout(this.timer);
    this.timer = -1;
    forgetCharts(this.element);
  }

  #again() {
    if (!this.timer) this.timer = setTimeout(() => this.#load(), Math.max(100, this.loadedAt + AGAIN_MS - Date.now()));
  }

  async #load() {
    try {
      const found = await get("api/versions");
      if (this.timer !== -1) this.#show(found);
    } catch (error) {
      if (!this.loadedAt) replace(this.body, h("p", { class: "trouble", role: "alert" }, plain(error.message)));
    } finally {
      this.loadedAt = Date.now();
      if (this.timer !== -1) this.timer = 0;
    }
  }

  #show({ now, history }) {
    const drawn = JSON.stringify([now, history]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const all = now.reduce((sum, one) => sum + one.devices, 0);
    forgetCharts(this.body);
    replace(this.body,
      h("section", {}, h("h2", {}, `Now: ${counted(all, "device")}`), now.length === 0 ? h("p", { class: "soft" }, "No device is known yet.") : barList(now.map((one) => ({
        node: h("span", {}, quoted(one.release), " ", state(one)), value: one.devices, kind: one.confirmed ? "" : one.digest ? "hollow" : "none", note: percent(one.devices / all),
      })), { most: all })),
      history.length > 0 && h("section", {}, h("h2", {}, "Over time"), h("div", { class: "charts one" }, overTime(history, this.app.live.now))));
  }
}

function state(one) {
  if (one.confirmed) return badge("good", "\u2713", "confirmed");
  return one.digest ? badge("warn", "!", "unconfirmed") : badge("none", "\u2013", "runs none");
}

function kindOf(one) {
  const release = one.release || NONE;
  return one.confirmed || release === NONE ? release : `${release}, unconfirmed`;
}

/* The last state holds until now. */
function overTime(past, now) {
  const last = past.at(-1);
  const history = now > last.at ? [...past, { ...last, at: now }] : past;
  const totals = new Map();
  const points = history.map((point) => {
    const found = new Map();
    for (const one of point.running) {
      const kind = kindOf(one);
      found.set(kind, (found.get(kind) ?? 0) + one.devices);
      totals.set(kind, (totals.get(kind) ?? 0) + one.devices);
    }
    return { at: point.at, found };
  });
  const large = [...totals.keys()].filter((kind) => kind !== NONE).sort((a, b) => totals.get(b) - totals.get(a));
  const most = new Set(large.slice(0, large.length > KINDS ? KINDS - 1 : KINDS));
  const named = [...totals.keys()].filter((kind) => most.has(kind)); // as they came: colours stay
  const rest = large.filter((kind) => !most.has(kind));
  const share = (point, these) => {
    const all = [...point.found.values()].reduce((sum, count) => sum + count, 0);
    return all ? these.reduce((sum, kind) => sum + (point.found.get(kind) ?? 0), 0) / all : 0;
  };
  const series = named.map((kind) => ({ label: kind, values: points.map((point) => share(point, [kind])) }));
  if (rest.length > 0) series.push({ label: `${rest.length} others`, values: points.map((point) => share(point, rest)) });
  if (totals.has(NONE)) series.push({ label: NONE, values: points.map((point) => share(point, [NONE])), hue: "--strong-line" });
  return chart({ title: "Share of the devices by the release that they reported", stacked: true, steps: true,
    x: { label: "Time", values: points.map((point) => point.at), time: true }, y: { label: "Share", from: 0, to: 1, show: percent }, series });
}
