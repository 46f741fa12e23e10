/* The parts of a device's page. Each takes what /api/devices/{name} says. */

import { barList, share, sparkline } from "../bars.js";
import { chart } from "../charts.js";
import { clockTime, moment } from "../clock.js";
import { h, plain, quoted } from "../dom.js";
import { bytes, counted, digest, duration, fixed, NOTHING, percent, signed, width } from "../format.js";
import { badge, confirmedBadge } from "../icons.js";
import { lines, moments, section } from "../lists.js";
import { address } from "../router.js";

function card(title, main, ...rest) {
  return h(
    "div",
    { class: "card" },
    h("h3", {}, title),
    h("p", { class: "main-fact" }, main),
    rest.filter(Boolean).map((one) => h("p", { class: "soft" }, one)),
  );
}

function terms(pairs) {
  return h(
    "dl",
    {},
    pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** Link, telemetry and work, each by itself; then widths and alarms. */
export function facts(found) {
  return section(
    "Now",
    found.alarms.length > 0 &&
      h(
        "p",
        { class: "alarms" },
        found.alarms.map((alarm) => badge("bad", "!", alarm)),
      ),
    h(
      "div",
      { class: "cards" },
      card(
        "Link",
        found.link,
        ["since ", moment(found.link_since)],
        found.link_cause && quoted(found.link_cause),
      ),
      card(
        "Last telemetry",
        moment(found.telemetry_at),
        found.latency_p95_s
          ? `p95 ${duration(found.latency_p95_s)}, ${counted(found.inferences, "answer")}`
          : `${counted(found.inferences, "answer")}`,
        found.memory_bytes ? `memory ${bytes(found.memory_bytes)}, outbox ${found.outbox ?? 0}` : null,
      ),
      card("Last useful work", moment(found.useful_at), found.useful && quoted(found.useful)),
      card("Takes part", found.takes_part.replace("-", " "), quoted(found.reason)),
      card(
        "Participation",
        percent(found.participation),
        sparkline(found.recent),
        `${found.rounds_taken} of ${counted(found.rounds_eligible, "eligible round")}`,
        found.straggler ? `straggler index ${fixed(found.straggler, 2)}` : null,
      ),
      card(
        "Drift",
        found.drift_level ? `${fixed(found.drift, 2)} (${found.drift_level})` : NOTHING,
        found.drift_level ? "stability index of its confidence" : "too little to judge by",
      ),
    ),
    h("h3", {}, "Widths"),
    widths(found),
    terms([
      found.site && ["Site", quoted(found.site)],
      ...Object.entries(found.labels)
        .filter(([name]) => name !== "site")
        .map(([name, value]) => [quoted(name), quoted(value)]),
      ["Agent", quoted(found.agent || "unknown")],
      found.emulated && ["Emulates", quoted(found.emulated)],
      ["First seen", moment(found.born_at)],
      ["Session", String(found.session)],
      found.cap && ["Cap", quoted(found.cap)],
      Number.isFinite(found.clock_offset_s) && ["Clock", `${fixed(found.clock_offset_s, 1)} s off`],
    ]),
  );
}

function widths(found) {
  const lines = [
    ["trains", found.training_width],
    ["entitled", found.entitled_width],
    ["deployed", found.deployed_width],
    ["runs", found.running_width],
  ];
  return barList(
    lines.map(([name, value]) => ({ name, value: value || 0 })),
    { show: width, most: 1 },
  );
}

/** What it shall run, has installed and says it runs. */
export function models(found) {
  const { deployment, report } = found;
  return section(
    "Releases and slots",
    h("p", {}, confirmedBadge(found)),
    terms([
      [
        "Assigned",
        deployment
          ? [
              h("code", { title: deployment.digest }, digest(deployment.digest)),
              `, width ${width(deployment.width)}, order ${deployment.counter}, `,
              moment(deployment.at),
            ]
          : NOTHING,
      ],
      deployment && ["Reason", quoted(deployment.reason)],
      deployment?.expires_at && ["Order expires", clockTime(deployment.expires_at)],
      ["Installed", report ? h("code", { title: report.installed }, digest(report.installed)) : NOTHING],
      [
        "Running",
        report
          ? [
              h("code", { title: report.running }, digest(report.running)),
              found.release && [", ", quoted(found.release)],
            ]
          : NOTHING,
      ],
      report && ["Reported", [`${report.state}, order ${report.counter}, `, moment(report.at)]],
      report?.detail && ["Detail", quoted(`${report.code} ${report.detail}`.trim())],
      report?.latency_p50_s
        ? [
            "Time for an answer",
            `p50 ${duration(report.latency_p50_s)}, p95 ${duration(report.latency_p95_s)}`,
          ]
        : null,
      ...(report?.evaluations ?? []).map((one) => [
        `Score on ${plain(one.data)}`,
        `${fixed(one.score)} (${counted(one.samples, "sample")})`,
      ]),
    ]),
  );
}

/** Its last rounds and why it missed some. */
export function rounds(found) {
  const missed = Object.entries(found.drops);
  return section(
    "Rounds",
    missed.length > 0 && [
      h("h3", {}, "Missed, by reason"),
      barList(missed.map(([name, value]) => ({ name, value }))),
    ],
    found.turns.length === 0
      ? h("p", { class: "soft" }, "No round yet that it could have been in.")
      : h(
          "details",
          { "data-part": "turns" },
          h("summary", {}, `Its last ${counted(found.turns.length, "round")}`),
          lines(
            ["Round", "Outcome", "Detail"],
            [...found.turns]
              .reverse()
              .map((turn) => [
                h("a", { href: address("rounds", turn.round) }, String(turn.round)),
                quoted(turn.outcome),
                quoted(turn.detail),
              ]),
          ),
        ),
  );
}

/** What each width costs it. */
export function profile(found) {
  const { profile: measured } = found;
  if (!measured) return section("Profile", h("p", { class: "soft" }, "It has not measured itself yet."));
  const slowest = Math.max(...measured.widths.map((one) => one.step_s), 0);
  return section(
    "Profile",
    h(
      "p",
      { class: "soft" },
      "Time of one training step over width, measured ",
      moment(found.profiled_at),
      ".",
    ),
    h(
      "ul",
      { class: "bars" },
      measured.widths.map((one) =>
        h(
          "li",
          {},
          h("span", { class: "bar-name" }, `width ${width(one.width)}`),
          share(slowest ? one.step_s / slowest : 0),
          h(
            "span",
            { class: "bar-value" },
            duration(one.step_s),
            one.peak_bytes ? h("small", {}, ` ${bytes(one.peak_bytes)}`) : null,
          ),
        ),
      ),
    ),
    terms([
      ["Cores", String(measured.cores)],
      ["Memory it may use", bytes(measured.memory_budget)],
      ["Samples", String(measured.samples)],
      ["Link", measured.link_bytes_per_s ? `${bytes(measured.link_bytes_per_s)}/s` : "not measured"],
      found.predicted_s ? ["Predicted round", duration(found.predicted_s)] : null,
    ]),
  );
}

/** Contribution, reward and training width over time, with the reasons. */
export function history(found) {
  const charts = [];
  if (found.contributions.length > 0)
    charts.push(
      chart({
        title: "Contribution by round",
        x: { label: "Round", values: found.contributions.map((one) => one.round), whole: true },
        y: { label: "Contribution", show: (value) => fixed(value, 3) },
        series: [
          { label: "Contribution", kind: "bars", values: found.contributions.map((one) => one.score) },
        ],
      }),
    );
  if (found.rewards.length > 1)
    charts.push(
      chart({
        title: "Reward over time",
        x: { label: "Time", values: found.rewards.map((one) => one.at), time: true },
        y: { label: "Width", from: 0, to: 1.05, show: (value) => fixed(value, 2) },
        series: [{ label: "Entitled width", values: found.rewards.map((one) => one.width) }],
      }),
    );
  const { reward } = found;
  return section(
    "Contribution and reward",
    reward &&
      h(
        "p",
        {},
        `Contribution ${signed(reward.contribution)} (${signed(reward.low)} to ${signed(reward.high)}), entitled to width ${width(reward.width)}. `,
        quoted(reward.reason),
      ),
    !reward && charts.length === 0 && h("p", { class: "soft" }, "Nothing measured yet."),
    h("div", { class: "charts" }, charts),
    found.widths.length > 0 && [
      h("h3", {}, "Training width"),
      lines(
        ["Since", "Width", "Reason"],
        [...found.widths]
          .reverse()
          .slice(0, 50)
          .map((one) => [clockTime(one.at), width(one.width), quoted(one.reason)]),
      ),
    ],
  );
}

/** Its last troubles. */
export function errors(found) {
  return section("Last errors", moments(found.errors, "None."));
}

/** What operators wrote. */
export function notes(found) {
  return found.notes.length > 0 && section("Notes", moments(found.notes, ""));
}

/** Everything that happened, the newest first. */
export function timeline(found) {
  return section("Timeline", moments(found.timeline, "Nothing yet."));
}
