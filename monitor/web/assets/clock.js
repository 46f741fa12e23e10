/* Moments on the page: relative, with the full time in the title, and kept up to date. */

import { h, setText } from "./dom.js";
import { ago, fullTime, shortTime } from "./format.js";

const TICK_MS = 5000;
let now = () => Date.now() / 1000;

/** Follow a clock: all moments are told against it. */
export function keepTime(clock) {
  now = clock;
  setInterval(() => {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("time[data-at]")) {
      setText(element, ago(Number(element.dataset.at), now()));
    }
  }, TICK_MS);
}

/** A moment, as how long it is ago. */
export function moment(at) {
  if (!at) return h("span", { class: "soft" }, "never");
  return h("time", { "data-at": at, title: fullTime(at), datetime: iso(at) }, ago(at, now()));
}

/** A moment, as a time of day. */
export function clockTime(at) {
  if (!at) return h("span", { class: "soft" }, "never");
  return h("time", { title: `${fullTime(at)}, ${ago(at, now())}`, datetime: iso(at) }, shortTime(at));
}

function iso(at) {
  const date = new Date(1000 * at);
  return Number.isNaN(date.valueOf()) ? null : date.toISOString();
}
