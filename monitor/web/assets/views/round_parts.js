/* What is drawn of rounds: the funnel of one, and figures of all of them. */

import { barList, funnel } from "../bars.js";
import { chart } from "../charts.js";
import { h } from "../dom.js";
import { bytes, duration, fixed, width } from "../format.js";
import { stateBadge } from "./round_columns.js";

/** How far the devices of a round came, and why some did not. */
export function latest(row, title = true) {
  return h(
    "section",
    {},
    title && h("h2", {}, `Round ${row.round} `, stateBadge(row)),
    h(
      "div",
      { class: "halves" },
      h("div", {}, h("h3", {}, "How far the devices came"), funnel(row.funnel)),
      h("div", {}, h("h3", {}, "Why some did not"), drops(row)),
    ),
  );
}

function drops(row) {
  const found = Object.entries(row.drops);
  if (found.length === 0)
    return h(
      "p",
      { class: "soft" },
      row.closed_at ? "All eligible devices are in the aggregate." : "None dropped out so far.",
    );
  return barList(
    found.map(([name, value]) => ({ name, value })),
    { most: row.funnel.eligible },
  );
}

/** Charts of the rounds, the newest first in what is given. */
export function overTime(rows) {
  const old = rows.filter((row) => row.closed_at).reverse(); // an open round is not measured yet
  const x = { label: "Round", values: old.map((row) => row.round), whole: true };
  const charts = [];
  if (old.length === 0) return charts;
  const scored = old.filter((row) => row.score !== null);
  if (scored.length > 0)
    charts.push(
      chart({
        title: "Score of the widest width",
        x: { ...x, values: scored.map((row) => row.round) },
        y: { label: "Score", show: (value) => fixed(value, 2) },
        series: [{ label: "Score", values: scored.map((row) => row.score) }],
      }),
    );
  const curved = rows.find((row) => row.curve.length > 0);
  if (curved) charts.push(curve(curved));
  charts.push(
    chart({
      title: "Time from opening to update",
      x,
      y: { label: "Seconds", from: 0, show: (value) => duration(value) },
      series: [
        { label: "p50", values: old.map((row) => row.p50_s) },
        { label: "p95", values: old.map((row) => row.p95_s) },
      ],
    }),
  );
  charts.push(
    chart({
      title: "Bytes",
      x,
      y: { label: "Bytes", from: 0, show: bytes },
      series: [
        { label: "Up", values: old.map((row) => row.sent_bytes) },
        { label: "Down", values: old.map((row) => row.received_bytes) },
      ],
    }),
  );
  return charts;
}

/** Score over width after a round. */
export function curve(row) {
  return chart({
    title: `Score over width, round ${row.round}`,
    x: { label: "Width", values: row.curve.map((one) => one.width), show: (value) => width(value) },
    y: {
      label: "Score",
      show: (value) => fixed(value, 2),
      from: Math.min(...row.curve.map((one) => one.low)),
      to: Math.max(...row.curve.map((one) => one.high)),
    },
    series: [{ label: "Score", values: row.curve.map((one) => one.score), intervals: row.curve }],
  });
}
