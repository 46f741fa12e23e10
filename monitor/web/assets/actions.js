/* What an operator may do, in the words of the page. The server decides; it lists what it knows at
   /api/actions, and only that is offered. */

import { confirmAction } from "./dialogs.js";
import { h } from "./dom.js";
import { width } from "./format.js";

const DEVICE_ACTIONS = [
  {
    kind: "suspend",
    label: "Suspend",
    title: "Suspend this device?",
    danger: true,
    when: (row) => !isOut(row),
    explains: "It gets no tasks and no new models until it is resumed. The model that it runs goes on.",
  },
  {
    kind: "resume",
    label: "Resume",
    title: "Resume this device?",
    when: isOut,
    explains: "It may take part in the next round, whether it was suspended or retired.",
  },
  {
    kind: "cap-width",
    when: isIn,
    label: "Cap width",
    title: "Cap the width of this device?",
    explains: "It trains at most this width from the next round on.",
    value: (widths) => ({
      label: "Widest training width",
      hint: "The narrower of this and what server.toml says holds.",
      input: h(
        "select",
        { name: "width" },
        widths.map((one) => h("option", { value: one }, width(one))),
        h("option", { value: 0 }, "no cap"),
      ),
      read: (form) => ({ width: Number(form.get("width")) }),
    }),
  },
  {
    kind: "roll-back",
    when: isIn,
    label: "Roll back",
    title: "Roll back to the previous release?",
    danger: true,
    explains: "It gets the release that it ran before the present one.",
  },
  {
    kind: "roll-forward",
    when: isIn,
    label: "Roll forward",
    title: "Undo the roll-back?",
    explains: "It may get the newest release again.",
  },
  {
    kind: "re-profile",
    when: isIn,
    label: "Measure anew",
    title: "Ask this device to measure itself anew?",
    explains: "It measures its speed and memory again, which takes it a few minutes of computing.",
  },
  { kind: "note", label: "Add a note", title: "Add a note", explains: "Others see it on this page." },
  {
    kind: "retire",
    label: "Retire",
    title: "Retire this device for good?",
    danger: true,
    when: isIn,
    explains: "It is gone for good: it gets no tasks and no models. What it earned stays in the ledger.",
  },
];
const FLEET_ACTIONS = [
  {
    kind: "note",
    label: "Add a note",
    title: "Add a note for the whole fleet",
    explains: "Others see it on this page.",
    when: (overview, fleet) => fleet.includes("note"),
  },
  {
    kind: "pause-rounds",
    label: "Pause rounds",
    title: "Pause rounds?",
    when: (overview) => !overview.paused,
    explains: "The open round ends as planned; no other opens until rounds are resumed.",
  },
  {
    kind: "resume-rounds",
    label: "Resume rounds",
    title: "Resume rounds?",
    when: (overview) => Boolean(overview.paused),
    explains: "The next round opens as soon as enough devices are there.",
  },
];

function isIn(row) {
  return row.link !== "retired";
}

function isOut(row) {
  return row.link === "suspended" || row.link === "retired";
}

/** The buttons for a device, none for who may not act. */
export function deviceButtons(app, row) {
  return buttons(
    app,
    DEVICE_ACTIONS.filter((one) => !one.when || one.when(row)),
    row.device,
  );
}

/** The buttons for the whole fleet. */
export function fleetButtons(app) {
  return buttons(
    app,
    FLEET_ACTIONS.filter((one) => one.when(app.live.overview ?? {}, app.fleetActions)),
    "",
  );
}

/** Return which buttons a device has now: a changed text says that they must be made anew. */
export function offered(app, row) {
  const known = app.actions;
  return app.mayAct
    ? DEVICE_ACTIONS.filter((one) => known.includes(one.kind) && (!one.when || one.when(row)))
        .map((one) => one.kind)
        .join()
    : "";
}

function buttons(app, actions, device) {
  const known = app.actions;
  if (!app.mayAct) return null;
  return h(
    "div",
    { class: "row actions", role: "group", "aria-label": "Actions" },
    actions
      .filter((one) => known.includes(one.kind))
      .map((one) =>
        h(
          "button",
          {
            type: "button",
            class: one.danger ? "danger" : null,
            "data-action": one.kind,
            on: {
              click: () =>
                confirmAction({ ...one, value: one.value?.(app.widths) }, device, (said) => app.say(said)),
            },
          },
          one.label,
        ),
      ),
  );
}
