/* Small drawings that stand in a line of text or of a table. */

import { h, plain, svg } from "./dom.js";

const GOOD = "aggregated";

/** The last rounds of a device: a full bar for each that holds its update, a stump for a missed one. */
export function sparkline(recent) {
  const count = 20;
  const taken = recent.filter((outcome) => outcome === GOOD).length;
  const missed = new Map();
  for (const outcome of recent) {
    if (outcome !== GOOD) missed.set(outcome, (missed.get(outcome) ?? 0) + 1);
  }
  const why = [...missed].map(([outcome, times]) => `${times} ${plain(outcome)}`).join(", ");
  const label = recent.length
    ? `${taken} of its last ${recent.length} rounds${why ? `; missed: ${why}` : ""}`
    : "no round yet";
  const bars = recent.slice(-count).map((outcome, at) => {
    const x = (count - Math.min(count, recent.length) + at) * 4;
    return outcome === GOOD
      ? svg("rect", { class: "taken", x, y: 1, width: 3, height: 14 })
      : svg("rect", { class: "missed", x: x + 0.5, y: 11.5, width: 2, height: 3 });
  });
  return svg(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${4 * count} 16`, width: 4 * count, height: 16, role: "img" },
    svg("title", {}, label),
    bars,
  );
}

/** Horizontal bars with their names and values. Values are not negative. */
export function barList(lines, { show = String, most = null } = {}) {
  const top = most ?? Math.max(...lines.map((line) => line.value), 0);
  return h(
    "ul",
    { class: "bars" },
    lines.map((line) =>
      h(
        "li",
        {},
        h("span", { class: "bar-name" }, line.node ?? plain(line.name)),
        share(top > 0 ? line.value / top : 0, line.kind),
        h(
          "span",
          { class: "bar-value" },
          show(line.value),
          line.note && h("small", {}, ` ${plain(line.note)}`),
        ),
      ),
    ),
  );
}

/** One bar that fills a share of its room. */
export function share(part, kind = "") {
  const filled = Math.max(0, Math.min(1, part || 0));
  return svg(
    "svg",
    { class: `share ${kind}`, viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "room", x: 0, y: 0, width: 100, height: 10 }),
    svg("rect", { class: "fill", x: 0, y: 0, width: 100 * filled, height: 10 }),
  );
}

/** A value with its interval on a common scale, zero marked. */
export function interval(value, low, high, from, to) {
  const place = (x) => (to > from ? (100 * (x - from)) / (to - from) : 50);
  return svg(
    "svg",
    { class: "interval", viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { class: "zero", x1: place(0), x2: place(0), y1: 0, y2: 14 }),
    svg("rect", {
      class: "between",
      x: place(low),
      y: 5.5,
      width: Math.max(0, place(high) - place(low)),
      height: 3,
    }),
    svg("rect", { class: "middle", x: place(value) - 1, y: 2, width: 2, height: 10 }),
  );
}

/** The funnel of a round: bars that never grow from step to step. */
export function funnel(steps) {
  const first = Math.max(...Object.values(steps), 1);
  return barList(
    Object.entries(steps).map(([name, value]) => ({ name, value })),
    { most: first },
  );
}
