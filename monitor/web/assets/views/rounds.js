/* Rounds: how far the devices came, why some did not, how long it took and what it brought. */

import { fleetButtons } from "../actions.js";
import { get } from "../api.js";
import { barList, funnel } from "../bars.js";
import { chart, forgetCharts } from "../charts.js";
import { clockTime, moment } from "../clock.js";
import { h, plain, quoted, replace } from "../dom.js";
import { bytes, counted, duration, fixed, NOTHING, signed, width } from "../format.js";
import { badge } from "../icons.js";
import { address, go } from "../router.js";
import { Table } from "../table.js";

const AGAIN_MS = 2000;

const ROUND_COLUMNS = [
  { key: "round", title: "Round", kind: "number", value: (row) => row.round, mark: (row) => String(row.round), show: (row) => h("a", { href: address("rounds", row.round) }, String(row.round)) },
  { key: "opened", title: "Opened", kind: "number", value: (row) => row.opened_at, mark: (row) => String(row.opened_at), show: (row) => clockTime(row.opened_at) },
  { key: "state", title: "State", value: state, mark: state, show: stateBadge },
  ...["eligible", "invited", "accepted", "started", "uploaded", "aggregated"].map((step) => ({
    key: step, title: step[0].toUpperCase() + step.slice(1), group: "Devices", kind: "number", value: (row) => row.funnel[step], show: (row) => String(row.funnel[step]) })),
  { key: "drops", title: "Missed for", value: (row) => Object.keys(row.drops).join(), mark: (row) => JSON.stringify(row.drops),
    show: (row) => h("span", { class: "clip" }, Object.entries(row.drops).map(([reason, count]) => `${count} ${plain(reason)}`).join(", ") || NOTHING) },
  { key: "p50", title: "p50", group: "Duration", kind: "number", value: (row) => row.p50_s, show: (row) => duration(row.p50_s ?? NaN) },
  { key: "p95", title: "p95", group: "Duration", kind: "number", value: (row) => row.p95_s, show: (row) => duration(row.p95_s ?? NaN) },
  { key: "sent", title: "Up", group: "Bytes", kind: "number", value: (row) => row.sent_bytes, show: (row) => bytes(row.sent_bytes) },
  { key: "received", title: "Down", group: "Bytes", kind: "number", value: (row) => row.received_bytes, show: (row) => bytes(row.received_bytes) },
  { key: "score", title: "Score", kind: "number", hint: "Of the widest width", value: (row) => row.score, show: (row) => fixed(row.score ?? NaN) },
];

function state(row) {
  if (row.counted === null || row.counted === undefined) return "open";
  const what = row.counted ? "counted" : "not counted";
  return row.assessment ? `assessment, ${what}` : what;
}

function stateBadge(row) {
  if (state(row) === "open") return badge("none", "\u25d4", "open");
  return row.counted ? badge("good", "\u2713", state(row)) : badge("warn", "!", state(row));
}

/** What the views on rounds share: they ask again when something happened. */
class AskingView {
  constructor(app) {
    this.app = app;
    this.element = h("div");
    this.loadedAt = 0;
    this.timer = 0;
    this.seen = "";
  }

  onSnapshot() { this.again(); }

  onOverview() {
    const now = JSON.stringify([this.app.live.overview.round, this.app.live.overview.paused]);
    if (now !== this.seen) this.again();
    this.seen = now;
  }

  leave() {
    clearTimeout(this.timer);
    this.timer = -1;
    forgetCharts(this.element);
  }

  again() {
    if (!this.timer) this.timer = setTimeout(() => this.load(), Math.max(100, this.loadedAt + AGAIN_MS - Date.now()));
  }

  async load() {
    try {
      const found = await get(this.path);
      if (this.timer !== -1) this.show(found);
    } catch (error) {
      if (!this.loadedAt) replace(this.element, h("h1", {}, this.title), h("p", { class: "trouble", role: "alert" }, plain(error.message)));
    } finally {
      this.loadedAt = Date.now();
      if (this.timer !== -1) this.timer = 0;
    }
  }
}

export class RoundsView extends AskingView {
  title = "Rounds";
  path = "api/rounds";

  constructor(app) {
    super(app);
    this.table = new Table(ROUND_COLUMNS, { caption: "Rounds, the newest first", key: (row) => String(row.round), open: (row) => go("rounds", row.round), sort: "round", descending: true });
    this.top = h("div");
    this.buttons = h("div");
    replace(this.element, h("h1", {}, "Rounds"), this.buttons, this.top, h("h2", {}, "All rounds"), this.table.element);
    this.load();
  }

  show(rows) {
    this.table.show(rows);
    const paused = String(Boolean(this.app.live.overview?.paused)) + this.app.mayAct;
    if (paused !== this.paused) replace(this.buttons, fleetButtons(this.app));
    this.paused = paused;
    const drawn = JSON.stringify(rows[0] ?? null);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    forgetCharts(this.top);
    replace(this.top, rows.length === 0 ? h("p", { class: "soft" }, "No round yet.") : [latest(rows[0]), h("div", { class: "charts" }, overTime(rows))]);
  }
}

function latest(row, title = true) {
  return h("section", {}, title && h("h2", {}, `Round ${row.round} `, stateBadge(row)),
    h("div", { class: "halves" }, h("div", {}, h("h3", {}, "How far the devices came"), funnel(row.funnel)), h("div", {}, h("h3", {}, "Why some did not"), drops(row))));
}

function drops(row) {
  const found = Object.entries(row.drops);
  if (found.length === 0) return h("p", { class: "soft" }, row.closed_at ? "All eligible devices are in the aggregate." : "None dropped out so far.");
  return barList(found.map(([name, value]) => ({ name, value })), { most: row.funnel.eligible });
}

function overTime(rows) {
  const old = rows.filter((row) => row.closed_at).reverse(); // an open round is not measured yet
  const x = { label: "Round", values: old.map((row) => row.round), whole: true };
  const charts = [];
  if (old.length === 0) return charts;
  const scored = old.filter((row) => row.score !== null);
  if (scored.length > 0) charts.push(chart({ title: "Score of the widest width", x: { ...x, values: scored.map((row) => row.round) },
    y: { label: "Score", show: (value) => fixed(value, 2) }, series: [{ label: "Score", values: scored.map((row) => row.score) }] }));
  const curved = rows.find((row) => row.curve.length > 0);
  if (curved) charts.push(curve(curved));
  charts.push(chart({ title: "Time from opening to update", x, y: { label: "Seconds", from: 0, show: (value) => duration(value) },
    series: [{ label: "p50", values: old.map((row) => row.p50_s) }, { label: "p95", values: old.map((row) => row.p95_s) }] }));
  charts.push(chart({ title: "Bytes", x, y: { label: "Bytes", from: 0, show: bytes },
    series: [{ label: "Up", values: old.map((row) => row.sent_bytes) }, { label: "Down", values: old.map((row) => row.received_bytes) }] }));
  return charts;
}

function curve(row) {
  return chart({ title: `Score over width, round ${row.round}`, x: { label: "Width", values: row.curve.map((one) => one.width), show: (value) => width(value) },
    y: { label: "Score", show: (value) => fixed(value, 2), from: Math.min(...row.curve.map((one) => one.low)), to: Math.max(...row.curve.map((one) => one.high)) },
    series: [{ label: "Score", values: row.curve.map((one) => one.score), intervals: row.curve }] });
}

const TASK_COLUMNS = [
  { key: "device", title: "Device", value: (row) => row.device, mark: () => "", show: (row) => h("a", { href: address("device", row.device) }, quoted(row.device)) },
  { key: "width", title: "Width", kind: "number", value: (row) => row.width, show: (row) => width(row.width) },
  { key: "step", title: "Came to", value: (row) => row.step },
  { key: "dropped", title: "Missed for", value: (row) => row.dropped, mark: (row) => `${row.dropped} ${row.detail} ${row.late}`,
    show: (row) => h("span", { class: "clip" }, row.late ? "late, counts in a later round" : row.dropped ? quoted([row.dropped, row.detail].filter(Boolean).join(": ")) : NOTHING) },
  { key: "predicted", title: "Predicted", group: "Duration", kind: "number", value: (row) => row.predicted_s, show: (row) => duration(row.predicted_s || NaN) },
  { key: "round_s", title: "Whole", group: "Duration", kind: "number", value: (row) => row.round_s || null, show: (row) => duration(row.round_s || NaN) },
  { key: "train", title: "Training", group: "Duration", kind: "number", value: (row) => row.train_s || null, show: (row) => duration(row.train_s || NaN) },
  { key: "download", title: "Download", group: "Duration", kind: "number", value: (row) => row.download_s || null, show: (row) => duration(row.download_s || NaN) },
  { key: "steps", title: "Steps", kind: "number", value: (row) => row.steps, show: (row) => String(row.steps) },
  { key: "samples", title: "Samples", kind: "number", value: (row) => row.samples || null, show: (row) => (row.samples ? String(row.samples) : NOTHING) },
  { key: "loss", title: "Loss", kind: "number", value: (row) => row.loss, show: (row) => fixed(row.loss ?? NaN) },
  { key: "sent", title: "Up", group: "Bytes", kind: "number", value: (row) => row.sent_bytes, show: (row) => bytes(row.sent_bytes) },
  { key: "received", title: "Down", group: "Bytes", kind: "number", value: (row) => row.received_bytes, show: (row) => bytes(row.received_bytes) },
  { key: "contribution", title: "Contribution", kind: "number", value: (row) => row.contribution, show: (row) => signed(row.contribution ?? NaN) },
];

export class RoundView extends AskingView {
  constructor(app, number) {
    super(app);
    this.title = `Round ${plain(number)}`;
    this.path = `api/rounds/${encodeURIComponent(number)}`;
    this.table = new Table(TASK_COLUMNS, { caption: "Tasks of the round", key: (row) => row.device, open: (row) => go("device", row.device), sort: "device" });
    this.top = h("div");
    this.rest = h("div");
    replace(this.element, h("p", { class: "crumbs" }, h("a", { href: address("rounds") }, "Rounds"), " / round"), h("h1", {}, this.title), this.top,
      h("h2", {}, "Tasks"), this.table.element, this.rest);
    this.load();
  }

  show(found) {
    const drawn = JSON.stringify(found);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    forgetCharts(this.top);
    replace(this.top, h("p", {}, stateBadge(found), " opened ", moment(found.opened_at), found.closed_at ? [", closed ", moment(found.closed_at)] : null,
      `, ${duration(found.budget_s)} allowed, quorum ${found.quorum}. `, found.closing && quoted(found.closing)), latest(found, false),
    found.curve.length > 0 && h("div", { class: "charts" }, curve(found)));
    this.table.show(found.tasks);
    const away = Object.entries(found.not_invited);
    replace(this.rest, away.length > 0 && [h("h2", {}, `${counted(away.length, "device")} not invited`),
      h("ul", { class: "plain" }, away.map(([name, why]) => h("li", {}, h("a", { href: address("device", name) }, quoted(name)), ": ", quoted(why))))]);
  }
}
