/* Signs beside words: a state is never told by its colour alone. */

import { h } from "./dom.js";

const SIGNS = {
  online: "\u25cf",
  late: "\u25d1",
  stale: "\u25cc",
  offline: "\u2715",
  "never-seen": "\u25cb",
  suspended: "\u2016",
  retired: "\u25a1",
};

/** The state of a link as a badge. */
export function linkBadge(state) {
  return h(
    "span",
    { class: `badge link-${state}` },
    h("span", { "aria-hidden": "true" }, sign(state)),
    ` ${state}`,
  );
}

/** The sign of a link's state. */
export function sign(state) {
  return SIGNS[state] ?? "?";
}

/** Whether a model is confirmed, as a badge. */
export function confirmedBadge(row) {
  if (row.confirmed) return badge("good", "\u2713", "confirmed");
  if (row.assigned) return badge("warn", "!", "not confirmed");
  return badge("none", "\u2013", "none assigned");
}

/** A short text with a sign; `kind` is good, warn, bad or none. */
export function badge(kind, mark, text) {
  return h("span", { class: `badge is-${kind}` }, h("span", { "aria-hidden": "true" }, mark), ` ${text}`);
}
