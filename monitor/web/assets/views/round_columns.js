/* The columns of the tables of rounds and of a round's tasks. */

import { clockTime } from "../clock.js";
import { h, plain, quoted } from "../dom.js";
import { bytes, duration, fixed, NOTHING, signed, width } from "../format.js";
import { badge } from "../icons.js";
import { address } from "../router.js";

// What a round moved, and what one device of it did.
const BYTES_MOVED = [
  {
    key: "sent",
    title: "Up",
    group: "Bytes",
    kind: "number",
    value: (row) => row.sent_bytes,
    show: (row) => bytes(row.sent_bytes),
  },
  {
    key: "received",
    title: "Down",
    group: "Bytes",
    kind: "number",
    value: (row) => row.received_bytes,
    show: (row) => bytes(row.received_bytes),
  },
];

export const ROUND_COLUMNS = [
  {
    key: "round",
    title: "Round",
    kind: "number",
    value: (row) => row.round,
    mark: (row) => String(row.round),
    show: (row) => h("a", { href: address("rounds", row.round) }, String(row.round)),
  },
  {
    key: "opened",
    title: "Opened",
    kind: "number",
    value: (row) => row.opened_at,
    mark: (row) => String(row.opened_at),
    show: (row) => clockTime(row.opened_at),
  },
  { key: "state", title: "State", value: state, mark: state, show: stateBadge },
  ...["eligible", "invited", "accepted", "started", "uploaded", "aggregated"].map((step) => ({
    key: step,
    title: step[0].toUpperCase() + step.slice(1),
    group: "Devices",
    kind: "number",
    value: (row) => row.funnel[step],
    show: (row) => String(row.funnel[step]),
  })),
  {
    key: "drops",
    title: "Missed for",
    value: (row) => Object.keys(row.drops).join(),
    mark: (row) => JSON.stringify(row.drops),
    show: (row) =>
      h(
        "span",
        { class: "clip" },
        Object.entries(row.drops)
          .map(([reason, count]) => `${count} ${plain(reason)}`)
          .join(", ") || NOTHING,
      ),
  },
  {
    key: "p50",
    title: "p50",
    group: "Duration",
    kind: "number",
    value: (row) => row.p50_s,
    show: (row) => duration(row.p50_s ?? NaN),
  },
  {
    key: "p95",
    title: "p95",
    group: "Duration",
    kind: "number",
    value: (row) => row.p95_s,
    show: (row) => duration(row.p95_s ?? NaN),
  },
  ...BYTES_MOVED,
  {
    key: "score",
    title: "Score",
    kind: "number",
    hint: "Of the widest width",
    value: (row) => row.score,
    show: (row) => fixed(row.score ?? NaN),
  },
];

function state(row) {
  if (row.counted === null || row.counted === undefined) return "open";
  const what = row.counted ? "counted" : "not counted";
  return row.assessment ? `assessment, ${what}` : what;
}

/** How a round stands, as a badge. */
export function stateBadge(row) {
  if (state(row) === "open") return badge("none", "\u25d4", "open");
  return row.counted ? badge("good", "\u2713", state(row)) : badge("warn", "!", state(row));
}

export const TASK_COLUMNS = [
  {
    key: "device",
    title: "Device",
    value: (row) => row.device,
    mark: () => "",
    show: (row) => h("a", { href: address("device", row.device) }, quoted(row.device)),
  },
  {
    key: "width",
    title: "Width",
    kind: "number",
    value: (row) => row.width,
    show: (row) => width(row.width),
  },
  { key: "step", title: "Came to", value: (row) => row.step },
  {
    key: "dropped",
    title: "Missed for",
    value: (row) => row.dropped,
    mark: (row) => `${row.dropped} ${row.detail} ${row.late}`,
    show: (row) =>
      h(
        "span",
        { class: "clip" },
        row.late
          ? "late, counts in a later round"
          : row.dropped
            ? quoted([row.dropped, row.detail].filter(Boolean).join(": "))
            : NOTHING,
      ),
  },
  {
    key: "predicted",
    title: "Predicted",
    group: "Duration",
    kind: "number",
    value: (row) => row.predicted_s,
    show: (row) => duration(row.predicted_s || NaN),
  },
  {
    key: "round_s",
    title: "Whole",
    group: "Duration",
    kind: "number",
    value: (row) => row.round_s || null,
    show: (row) => duration(row.round_s || NaN),
  },
  {
    key: "train",
    title: "Training",
    group: "Duration",
    kind: "number",
    value: (row) => row.train_s || null,
    show: (row) => duration(row.train_s || NaN),
  },
  {
    key: "download",
    title: "Download",
    group: "Duration",
    kind: "number",
    value: (row) => row.download_s || null,
    show: (row) => duration(row.download_s || NaN),
  },
  {
    key: "steps",
    title: "Steps",
    kind: "number",
    value: (row) => row.steps,
    show: (row) => String(row.steps),
  },
  {
    key: "samples",
    title: "Samples",
    kind: "number",
    value: (row) => row.samples || null,
    show: (row) => (row.samples ? String(row.samples) : NOTHING),
  },
  {
    key: "loss",
    title: "Loss",
    kind: "number",
    value: (row) => row.loss,
    show: (row) => fixed(row.loss ?? NaN),
  },
  ...BYTES_MOVED,
  {
    key: "contribution",
    title: "Contribution",
    kind: "number",
    value: (row) => row.contribution,
    show: (row) => signed(row.contribution ?? NaN),
  },
];
