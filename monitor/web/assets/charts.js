/* Charts, drawn by uPlot in the page's colours. Each has its numbers as a table too, for those who
   do not see the drawing. */

import { h, plain } from "./dom.js";
import { NOTHING, shortTime } from "./format.js";
import uPlot from "./vendor/uPlot.esm.js";

const HUES = ["--hue-1", "--hue-2", "--hue-3", "--hue-4", "--hue-5", "--hue-6"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4]];
const TABLE_ROWS = 200;

/**
 * @typedef {object} Series
 * @property {string} label
 * @property {(number|null)[]} values
 * @property {"line"|"points"|"bars"|"area"} [kind]
 * @property {{low: number, high: number}[]} [intervals] Of the values, drawn as lines.
 * @property {{low: number, high: number}[]} [across] The same of the places on the x axis.
 * @property {string} [hue] Name of a colour of the page; `pale`: in a light tone of it.
 */

/**
 * Draw a chart.
 * @param {object} what `title`; `x`: {label, values, time, show}; `y`: {label, show, from, to};
 *   `series`: Series[]; `stacked`: areas on each other; `names`: of the points.
 * @returns {HTMLElement} A figure; it follows its own width and the colours of the page.
 */
export function chart(what) {
  const canvas = h("div", {
    class: "canvas",
    role: "img",
    "aria-label": `${what.title}. The numbers stand in the table below it.`,
  });
  const figure = h("figure", { class: "chart" }, h("figcaption", {}, what.title), canvas, numbers(what));
  const state = { plot: null, width: 0 };
  const draw = () => {
    state.plot?.destroy();
    state.plot = null;
    const room = Math.floor(canvas.clientWidth);
    if (room < 120) return;
    state.width = room;
    state.plot = new uPlot(settings(what, room, colours(canvas)), data(what), canvas);
  };
  const watcher = new ResizeObserver(() => {
    if (!canvas.isConnected) return;
    if (Math.abs(canvas.clientWidth - state.width) > 1) draw();
  });
  watcher.observe(canvas);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const repaint = () => canvas.isConnected && draw();
  scheme.addEventListener("change", repaint);
  figure.forget = () => {
    watcher.disconnect();
    scheme.removeEventListener("change", repaint);
    state.plot?.destroy();
  };
  return figure;
}

/** Let go of the charts in an element that is about to leave the page. */
export function forgetCharts(element) {
  for (const figure of element.querySelectorAll("figure.chart")) figure.forget?.();
}

function colours(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(name).trim();
  return { ink: of("--soft"), line: of("--line"), hues: HUES.map(of), paper: of("--paper"), of };
}

function data(what) {
  if (!what.stacked) return [what.x.values, ...what.series.map((one) => one.values)];
  const sums = [];
  const below = what.x.values.map(() => 0);
  for (const one of what.series) {
    one.values.forEach((value, at) => {
      below[at] += value ?? 0;
    });
    sums.push([...below]);
  }
  return [what.x.values, ...sums.reverse()]; // the tallest is drawn first, the others on it
}

function settings(what, room, colour) {
  const order = what.series.map((one, at) => ({ one, at }));
  if (what.stacked) order.reverse();
  return {
    width: room,
    height: Math.max(180, Math.min(260, Math.round(room * 0.45))),
    padding: [12, 14, 0, 0],
    cursor: { drag: { x: false, y: false }, points: { show: !what.stacked } },
    legend: { show: what.series.length > 1, live: false },
    scales: {
      x: {
        time: Boolean(what.x.time),
        range: what.x.time ? timeRange : (_, low, high) => numberRange(what.x.from ?? low, what.x.to ?? high),
      },
      y: {
        range: (_, low, high) =>
          valueRange(
            what.y,
            low,
            high,
            what.series.some((one) => one.kind === "bars"),
          ),
      },
    },
    axes: [
      { ...axis(what.x, colour), size: what.x.time ? 46 : 30 },
      { ...axis(what.y, colour), size: 58 },
    ],
    series: [{}, ...order.map(({ one, at }) => line(what, one, at, colour))],
    hooks: { draw: [(plot) => drawIntervals(plot, order, colour)] },
  };
}

function timeRange(_, low, high) {
  return high > low ? [low, high] : [low - 1800, high + 1800];
}

function numberRange(low, high) {
  const room = high > low ? 0.03 * (high - low) : 0.5;
  return [low - room, high + room];
}

/* A bar is read by its length, so its scale holds zero. */
function valueRange(y, low, high, bars) {
  const from = y.from ?? (bars ? Math.min(0, low) : low);
  const to = y.to ?? (bars ? Math.max(0, high) : high);
  if (!Number.isFinite(from) || !Number.isFinite(to)) return [0, 1];
  const room = to > from ? 0.07 * (to - from) : Math.abs(to) * 0.1 || 1;
  return [y.from ?? (bars && from === 0 ? 0 : from - room), y.to ?? to + room];
}

function axis(of, colour) {
  return {
    label: of.label,
    labelSize: 22,
    labelFont: "12px system-ui, sans-serif",
    font: "12px system-ui, sans-serif",
    stroke: colour.ink,
    grid: { stroke: colour.line, width: 1 },
    ticks: { stroke: colour.line, width: 1, size: 4 },
    ...(of.show && { values: (_, splits) => splits.map((value) => of.show(value)) }),
    ...(of.whole && { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 1e5, 1e6] }),
  };
}

function line(what, one, at, colour) {
  const own = one.hue ? colour.of(one.hue) : colour.hues[at % colour.hues.length];
  const hue = one.pale ? mixed(own, colour.paper) : own;
  const common = { label: plain(one.label), stroke: hue, width: 2, spanGaps: true };
  if (what.stacked)
    return {
      ...common,
      fill: hue,
      stroke: colour.paper,
      width: 1,
      points: { show: false },
      ...stepped(what),
    };
  if (one.kind === "points")
    return {
      ...common,
      width: 0,
      paths: () => null,
      points: { show: true, size: 8, fill: hue, stroke: hue },
    };
  if (one.kind === "bars")
    return {
      ...common,
      width: 0,
      fill: hue,
      paths: uPlot.paths.bars({ size: [0.7, 40] }),
      points: { show: false },
    };
  return {
    ...common,
    dash: DASHES[at % DASHES.length],
    points: { show: one.values.length < 60, size: 6, fill: hue },
  };
}

/* Halfway between two colours #rrggbb: what is drawn below must not shine through. */
function mixed(one, other) {
  const parts = [one, other].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return `rgb(${parts[0].map((value, at) => Math.round(0.4 * value + 0.6 * parts[1][at])).join()})`;
}

function stepped(what) {
  return what.steps ? { paths: uPlot.paths.stepped({ align: 1 }) } : {};
}

function drawIntervals(plot, order, colour) {
  const { ctx } = plot;
  order.forEach(({ one, at }, place) => {
    const intervals = one.intervals ?? one.across;
    if (!intervals || !plot.series[place + 1].show) return;
    ctx.save();
    ctx.strokeStyle = colour.hues[at % colour.hues.length];
    ctx.globalAlpha = 0.6;
    ctx.lineWidth = 1.5 * devicePixelRatio;
    intervals.forEach((interval, index) => {
      if (!interval || interval.low === interval.high) return;
      const [low, high] = [interval.low, interval.high].map((value) =>
        plot.valToPos(value, one.across ? "x" : "y", true),
      );
      const x = plot.valToPos(plot.data[0][index], "x", true);
      const y = plot.valToPos(plot.data[place + 1][index], "y", true);
      ctx.beginPath();
      ctx.moveTo(...(one.across ? [low, y] : [x, low]));
      ctx.lineTo(...(one.across ? [high, y] : [x, high]));
      ctx.stroke();
    });
    ctx.restore();
  });
}

function numbers(what) {
  const showX = what.x.show ?? (what.x.time ? shortTime : String);
  const showY = what.y.show ?? String;
  const heads = [what.names && "Device", what.x.label, ...what.series.map((one) => plain(one.label))].filter(
    Boolean,
  );
  const body = h("tbody");
  const details = h(
    "details",
    { class: "numbers" },
    h("summary", {}, "Numbers"),
    h(
      "div",
      { class: "wide", tabindex: "0", role: "region", "aria-label": `${what.title}: numbers` },
      h(
        "table",
        { class: "grid" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map((head) => h("th", { scope: "col" }, head)),
          ),
        ),
        body,
      ),
    ),
  );
  details.addEventListener("toggle", () => {
    // most readers never open it
    if (!details.open || body.firstChild) return;
    const first = Math.max(0, what.x.values.length - TABLE_ROWS);
    for (let at = what.x.values.length - 1; at >= first; at -= 1) {
      body.append(
        h(
          "tr",
          {},
          what.names && h("th", { scope: "row" }, plain(what.names[at])),
          h("td", { class: "n" }, showX(what.x.values[at])),
          what.series.map((one) =>
            h(
              "td",
              { class: "n" },
              one.values[at] === null || one.values[at] === undefined ? NOTHING : showY(one.values[at]),
            ),
          ),
        ),
      );
    }
  });
  return details;
}
