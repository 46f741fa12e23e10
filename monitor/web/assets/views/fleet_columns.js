/* The columns of the fleet table. Link, telemetry and work stand apart: a device that is there need
   not do anything, and one that worked a minute ago may be gone. */

import { sparkline } from "../bars.js";
import { moment } from "../clock.js";
import { h, plain, quoted } from "../dom.js";
import { duration, fixed, NOTHING, percent, signed, width } from "../format.js";
import { badge, confirmedBadge, linkBadge } from "../icons.js";
import { address } from "../router.js";

/** How urgent a state of the link is: the order in which the table sorts it. */
const LINK_ORDER = ["offline", "stale", "late", "never-seen", "online", "suspended", "retired"];
const TAKES_PART = {
  "takes-part": "takes part",
  waiting: "waiting",
  cannot: "cannot",
  suspended: "suspended",
};

const NAME = {
  key: "device",
  title: "Device",
  value: (row) => row.device,
  mark: (row) => `${row.site} ${row.emulated}`,
  show: (row) =>
    h(
      "div",
      {},
      h("a", { href: address("device", row.device) }, quoted(row.device)),
      row.site && h("small", {}, quoted(row.site)),
    ),
};
const PRESENCE = [
  {
    key: "link",
    title: "Link",
    group: "Is it there?",
    hint: "Whether its lease holds, and since when",
    value: (row) => LINK_ORDER.indexOf(row.link),
    mark: (row) => `${row.link} ${row.link_since} ${row.link_cause}`,
    show: (row) =>
      h(
        "div",
        { title: plain(row.link_cause) || null },
        linkBadge(row.link),
        h(
          "small",
          { class: "clip two" },
          moment(row.link_since),
          row.link !== "online" && row.link_cause ? [": ", quoted(row.link_cause)] : null,
        ),
      ),
  },
  {
    key: "telemetry",
    title: "Telemetry",
    group: "Is it there?",
    hint: "When its last telemetry came",
    kind: "number",
    value: (row) => row.telemetry_at,
    mark: (row) => String(row.telemetry_at),
    show: (row) => moment(row.telemetry_at),
  },
  {
    key: "useful",
    title: "Useful work",
    group: "Is it there?",
    hint: "When it last did something of use, and what",
    kind: "number",
    value: (row) => row.useful_at,
    mark: (row) => `${row.useful_at} ${row.useful}`,
    show: (row) => h("div", {}, moment(row.useful_at), row.useful && h("small", {}, quoted(row.useful))),
  },
];
const WORK = [
  {
    key: "takes_part",
    title: "Takes part",
    group: "Does it take part?",
    hint: "Whether it is invited to rounds, and why not",
    value: (row) => row.takes_part,
    mark: (row) => `${row.takes_part} ${row.reason}`,
    show: (row) =>
      h(
        "div",
        { title: plain(row.reason) || null },
        TAKES_PART[row.takes_part] ?? plain(row.takes_part),
        h("small", { class: "clip one" }, quoted(row.reason)),
      ),
  },
  {
    key: "participation",
    title: "Participation",
    group: "Does it take part?",
    kind: "number",
    hint: "Rounds whose aggregate holds its update, of those that it could have been in; bars: the last 20",
    value: (row) => row.participation,
    mark: (row) => `${row.rounds_taken} ${row.rounds_eligible} ${(row.recent ?? []).join()}`,
    show: (row) =>
      h(
        "div",
        {},
        sparkline(row.recent ?? []),
        h(
          "small",
          {},
          row.rounds_eligible
            ? `${percent(row.participation)}, ${row.rounds_taken} of ${row.rounds_eligible}`
            : "no round yet",
        ),
      ),
  },
  {
    key: "straggler",
    title: "Straggler",
    group: "Does it take part?",
    kind: "number",
    hint: "How long it takes for a round, over devices of the same width; 1 is usual",
    value: (row) => row.straggler,
    show: (row) => fixed(row.straggler, 2),
  },
];
const WIDTHS = [
  ["training", "Training", "Width that it trains", "training_width"],
  ["entitled", "Entitled", "Width that it has earned", "entitled_width"],
  ["deployed", "Deployed", "Width that it was sent", "deployed_width"],
  ["running", "Running", "Width that it says it runs", "running_width"],
].map(([key, title, hint, field]) => ({
  key,
  title,
  hint,
  group: "Width",
  kind: "number",
  value: (row) => row[field] || null,
  show: (row) => width(row[field]),
}));
const MODEL = [
  {
    key: "release",
    title: "Reported",
    group: "Model",
    hint: "Release that it says it runs",
    value: (row) => row.release,
    mark: (row) => row.release,
    show: (row) => (row.release ? quoted(row.release) : NOTHING),
  },
  ...["assigned", "installed"].map((key) => ({
    key,
    title: key === "assigned" ? "Assigned" : "Installed",
    group: "Model",
    hint: `The release that ${key === "assigned" ? "it was sent" : "lies in its slot"}`,
    value: (row) => row[`${key}_release`],
    mark: (row) => `${row[key]} ${row[`${key}_release`]}`,
    show: (row) => h("span", { title: row[key] || null }, row[key] ? quoted(row[`${key}_release`]) : NOTHING),
  })),
  {
    key: "confirmed",
    title: "Confirmed",
    group: "Model",
    hint: "Whether it said itself that it runs what it was sent",
    value: (row) => (row.confirmed ? "confirmed" : row.assigned ? "a" : null),
    mark: (row) => `${row.confirmed} ${Boolean(row.assigned)}`,
    show: confirmedBadge,
  },
];
const FIGURES = [
  {
    key: "contribution",
    title: "Contribution",
    kind: "number",
    hint: "Sum of its measured contributions",
    value: (row) => row.contribution,
    show: (row) => signed(row.contribution),
  },
  {
    key: "drift",
    title: "Drift",
    kind: "number",
    hint: "Stability index of its confidence: above 0.1 worth a look, above 0.2 an alarm",
    value: (row) => row.drift,
    show: (row) => (row.drift_level ? `${fixed(row.drift, 2)} ${row.drift_level}` : NOTHING),
  },
  {
    key: "latency",
    title: "p95",
    kind: "number",
    hint: "95th percentile of its time for one answer",
    value: (row) => row.latency_p95_s,
    show: (row) => duration(row.latency_p95_s ?? NaN),
  },
];
const ALARMS = {
  key: "alarms",
  title: "Alarms",
  hint: "What is wrong with it",
  value: (row) => -(row.alarms ?? []).length,
  mark: (row) => (row.alarms ?? []).join(),
  show: (row) =>
    h(
      "div",
      { class: "alarms" },
      (row.alarms ?? []).map((alarm) => badge("bad", "!", alarm)),
    ),
};

export const COLUMNS = [NAME, ...PRESENCE, ALARMS, ...WORK, ...WIDTHS, ...MODEL, ...FIGURES];
