/* Rounds: how far the devices came, why some did not, how long it took and what it brought. */

import { fleetButtons } from "../actions.js";
import { forgetCharts } from "../charts.js";
import { moment } from "../clock.js";
import { h, plain, quoted, replace } from "../dom.js";
import { counted, duration } from "../format.js";
import { address, go } from "../router.js";
import { Table } from "../table.js";
import { AskingView } from "./asking_view.js";
import { ROUND_COLUMNS, stateBadge, TASK_COLUMNS } from "./round_columns.js";
import { curve, latest, overTime } from "./round_parts.js";

const PAUSE_MS = 2000;

/** All rounds: the newest as a funnel, figures over time, and a table. */
export class RoundsView extends AskingView {
  title = "Rounds";

  constructor(app) {
    super(app, "api/rounds", PAUSE_MS);
    this.table = new Table(ROUND_COLUMNS, {
      caption: "Rounds, the newest first",
      key: (row) => String(row.round),
      open: (row) => go("rounds", row.round),
      sort: "round",
      descending: true,
    });
    this.buttons = h("div");
    this.charts = h("div", { class: "charts" });
    this.element = h(
      "div",
      {},
      h("h1", {}, "Rounds"),
      this.buttons,
      this.body,
      this.charts,
      h("h2", {}, "All rounds"),
      this.table.element,
    );
    this.seen = "";
    this.onOverview();
    this.load();
  }

  onSnapshot() {
    this.onOverview();
    this.again();
  }

  onOverview() {
    const { overview } = this.app.live;
    if (!overview) return;
    const now = JSON.stringify(overview.round);
    if (now !== this.seen) this.again();
    this.seen = now;
    const offered = `${Boolean(overview.paused)} ${this.app.mayAct}`;
    if (offered !== this.offered) replace(this.buttons, fleetButtons(this.app));
    this.offered = offered;
  }

  show(rows) {
    this.table.show(rows);
    replace(this.body, rows.length === 0 ? h("p", { class: "soft" }, "No round yet.") : latest(rows[0]));
    const closed = JSON.stringify(rows.find((row) => row.closed_at) ?? null);
    if (closed === this.closed) return; // whoever reads a chart's numbers is not disturbed
    this.closed = closed;
    forgetCharts(this.charts);
    replace(this.charts, overTime(rows));
  }
}

/** One round, device by device. */
export class RoundView extends AskingView {
  constructor(app, number) {
    super(app, `api/rounds/${encodeURIComponent(number)}`, PAUSE_MS);
    this.title = `Round ${plain(number)}`;
    this.table = new Table(TASK_COLUMNS, {
      caption: "Tasks of the round",
      key: (row) => row.device,
      open: (row) => go("device", row.device),
      sort: "device",
    });
    this.rest = h("div");
    this.element = h(
      "div",
      {},
      h("p", { class: "crumbs" }, h("a", { href: address("rounds") }, "Rounds"), " / round"),
      h("h1", {}, this.title),
      this.body,
      h("h2", {}, "Tasks"),
      this.table.element,
      this.rest,
    );
    this.load();
  }

  onOverview() {
    this.again();
  }

  show(found) {
    replace(
      this.body,
      h("p", {}, stateBadge(found), ...moments(found), found.closing && quoted(found.closing)),
      latest(found, false),
      found.curve.length > 0 && h("div", { class: "charts" }, curve(found)),
    );
    this.table.show(found.tasks);
    replace(this.rest, notInvited(Object.entries(found.not_invited)));
  }
}

function moments(found) {
  return [
    " opened ",
    moment(found.opened_at),
    found.closed_at ? ", closed " : null,
    found.closed_at ? moment(found.closed_at) : null,
    `, ${duration(found.budget_s)} allowed, quorum ${found.quorum}. `,
  ];
}

function notInvited(away) {
  if (away.length === 0) return null;
  const line = ([name, why]) =>
    h("li", {}, h("a", { href: address("device", name) }, quoted(name)), ": ", quoted(why));
  return [
    h("h2", {}, `${counted(away.length, "device")} not invited`),
    h("ul", { class: "plain" }, away.map(line)),
  ];
}
