/* Sections, lists of moments and small tables. */

import { clockTime } from "./clock.js";
import { h, plain, quoted } from "./dom.js";

/** A part of a view, with its heading. */
export function section(title, ...content) {
  return h("section", {}, h("h2", {}, title), content);
}

/** Moments as a list, the newest first. */
export function moments(list, otherwise) {
  if (list.length === 0) return h("p", { class: "soft" }, otherwise);
  return h(
    "ol",
    { class: "timeline", reversed: true },
    list.map((one) =>
      h(
        "li",
        {},
        clockTime(one.at),
        h("span", { class: "kind" }, plain(one.kind)),
        h("span", { class: "what" }, quoted(one.text)),
      ),
    ),
  );
}

/** A small table. */
export function lines(heads, rows) {
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": heads.join(", ") },
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
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell) => h("td", {}, cell)),
          ),
        ),
      ),
    ),
  );
}
