/* Rewards: what each device brought, what it gets for it, and who cannot be told apart. */

import { interval } from "../bars.js";
import { chart } from "../charts.js";
import { h, quoted, replace } from "../dom.js";
import { fixed, NOTHING, signed, width } from "../format.js";
import { badge } from "../icons.js";
import { address, go } from "../router.js";
import { Table } from "../table.js";
import { AskingView } from "./asking_view.js";

const PAUSE_MS = 5000;

export class RewardsView extends AskingView {
  title = "Rewards";

  constructor(app) {
    super(app, "api/rewards", PAUSE_MS);
    this.from = 0;
    this.to = 0;
    this.table = new Table(this.#columns(), {
      caption: "Rewards of the devices",
      key: (row) => row.device,
      open: (row) => go("device", row.device),
      sort: "contribution",
      descending: true,
    });
    this.table.element.hidden = true;
    this.element = h(
      "div",
      {},
      h("h1", {}, "Rewards"),
      h(
        "p",
        { class: "lead" },
        "A device earns a width by what its data brought to the common model. Devices whose contributions cannot",
        " be told apart get the same.",
      ),
      this.body,
      this.table.element,
    );
    this.load();
  }

  #columns() {
    const scale = (row) => `${row.contribution} ${row.low} ${row.high} ${this.from} ${this.to}`;
    return [
      {
        key: "device",
        title: "Device",
        value: (row) => row.device,
        mark: (row) => row.site,
        show: (row) =>
          h(
            "div",
            {},
            h("a", { href: address("device", row.device) }, quoted(row.device)),
            row.site && h("small", {}, quoted(row.site)),
          ),
      },
      {
        key: "contribution",
        title: "Contribution",
        kind: "number",
        hint: "With its 95 % interval",
        value: (row) => row.contribution,
        mark: scale,
        show: (row) =>
          h("div", {}, signed(row.contribution), h("small", {}, `${signed(row.low)} to ${signed(row.high)}`)),
      },
      {
        key: "interval",
        title: "Interval",
        hint: "All on one scale; the line marks zero",
        value: (row) => row.low,
        mark: scale,
        show: (row) => interval(row.contribution, row.low, row.high, this.from, this.to),
      },
      {
        key: "share",
        title: "Share",
        kind: "number",
        hint: "Its contribution over the average one",
        value: (row) => row.share,
        show: (row) => fixed(row.share, 2),
      },
      {
        key: "width",
        title: "Entitled",
        group: "Width",
        kind: "number",
        value: (row) => row.width,
        show: (row) => width(row.width),
      },
      {
        key: "deployed",
        title: "Deployed",
        group: "Width",
        kind: "number",
        value: (row) => row.deployed_width,
        show: (row) => width(row.deployed_width),
      },
      {
        key: "running",
        title: "Running",
        group: "Width",
        kind: "number",
        value: (row) => row.running_width,
        mark: (row) => `${row.running_width} ${row.confirmed}`,
        show: (row) =>
          h(
            "span",
            {},
            width(row.running_width),
            " ",
            row.confirmed ? badge("good", "\u2713", "confirmed") : badge("warn", "!", "not confirmed"),
          ),
      },
      {
        key: "score",
        title: "Of its width",
        group: "Score",
        kind: "number",
        hint: "Score of the width that it gets",
        value: (row) => row.score,
        show: (row) => fixed(row.score),
      },
      {
        key: "target",
        title: "Earned",
        group: "Score",
        kind: "number",
        hint: "Score that its contribution earns",
        value: (row) => row.target,
        show: (row) => fixed(row.target),
      },
      {
        key: "alone",
        title: "Alone",
        group: "Score",
        kind: "number",
        hint: "Score of a model that it trained alone",
        value: (row) => row.alone,
        show: (row) => fixed(row.alone ?? NaN),
      },
      {
        key: "equals",
        title: "Ties with",
        value: (row) => row.equals.length || null,
        mark: (row) => row.equals.join("\n"),
        show: ties,
      },
      {
        key: "reason",
        title: "Why",
        value: (row) => row.reason,
        mark: (row) => row.reason,
        show: (row) => h("span", { class: "reason" }, quoted(row.reason)),
      },
    ];
  }

  onDevices({ changed }) {
    if (changed.some((row) => this.seen?.get(row.device) !== rewarded(row))) this.again();
  }

  show(rows) {
    this.seen = new Map([...this.app.live.rows.values()].map((row) => [row.device, rewarded(row)]));
    this.from = Math.min(0, ...rows.map((row) => row.low));
    this.to = Math.max(0, ...rows.map((row) => row.high));
    this.table.element.hidden = rows.length === 0;
    this.table.show(rows);
    replace(
      this.body,
      rows.length === 0
        ? h("p", { class: "soft" }, "No rewards yet: they are measured from the first scored rounds on.")
        : h("div", { class: "charts" }, against(rows)),
    );
  }
}

/* What of a device's row tells that its reward may be another one. */
function rewarded(row) {
  return `${row.share} ${row.confirmed} ${row.deployed_width}`;
}

function against(rows) {
  const sorted = [...rows].sort((a, b) => a.contribution - b.contribution);
  return chart({
    title: "Reward against contribution",
    names: sorted.map((row) => row.device),
    x: {
      label: "Contribution, with its interval",
      values: sorted.map((row) => row.contribution),
      show: (value) => fixed(value, 2),
      from: Math.min(...rows.map((row) => row.low)),
      to: Math.max(...rows.map((row) => row.high)),
    },
    y: { label: "Score", from: 0, show: (value) => fixed(value, 2) },
    series: [
      { label: "Score of its width", kind: "points", values: sorted.map((row) => row.score), across: sorted },
      { label: "Score that it earned", values: sorted.map((row) => row.target) },
    ],
  });
}

/* Three names say enough; the whole list opens. */
function ties(row) {
  if (row.equals.length === 0) return NOTHING;
  const names = row.equals.map((name) =>
    h("li", {}, h("a", { href: address("device", name) }, quoted(name))),
  );
  if (names.length <= 2) return h("ul", { class: "plain" }, names);
  return h(
    "details",
    { class: "ties" },
    h("summary", {}, `${names.length} devices`),
    h("ul", { class: "plain" }, names),
  );
}
