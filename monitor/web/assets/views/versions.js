/* Versions: what the devices say they run, now and over time. Devices that run nothing, something
   unknown or something that they did not confirm are shown like all others. */

import { barList } from "../bars.js";
import { chart } from "../charts.js";
import { h, quoted, replace } from "../dom.js";
import { counted, percent } from "../format.js";
import { badge } from "../icons.js";
import { section } from "../lists.js";
import { AskingView } from "./asking_view.js";

const PAUSE_MS = 5000;
const NAMED = 5; // as many as there are colours; older releases are put together

export class VersionsView extends AskingView {
  title = "Versions";

  constructor(app) {
    super(app, "api/versions", PAUSE_MS);
    this.element = h(
      "div",
      {},
      h("h1", {}, "Versions"),
      h(
        "p",
        { class: "lead" },
        "Releases by what the devices report that they run. Unconfirmed: the device did not say so of the model",
        " that it was sent last.",
      ),
      this.body,
    );
    this.load();
  }

  onDevices() {
    this.again();
  }

  show({ now, history }) {
    const all = now.reduce((sum, one) => sum + one.devices, 0);
    const lines = now.map((one) => ({
      node: h("span", {}, quoted(one.release), " ", state(one)),
      value: one.devices,
      kind: one.confirmed ? "" : one.digest ? "hollow" : "none",
      note: percent(one.devices / all),
    }));
    replace(
      this.body,
      section(
        `Now: ${counted(all, "device")}`,
        all === 0 ? h("p", { class: "soft" }, "No device is known yet.") : barList(lines, { most: all }),
      ),
      history.length > 0 &&
        section("Over time", h("div", { class: "charts one" }, overTime(history, this.app.live.now))),
    );
  }
}

function state(one) {
  if (one.confirmed) return badge("good", "\u2713", "confirmed");
  return one.digest ? badge("warn", "!", "unconfirmed") : badge("none", "\u2013", "runs none");
}

/* The last state holds until now. Releases keep their colours; devices that did not confirm what
   they run have the same in pale. */
function overTime(past, now) {
  const last = past.at(-1);
  const history = now > last.at ? [...past, { ...last, at: now }] : past;
  const releases = [
    ...new Set(
      history.flatMap((point) => point.running.filter((one) => one.digest).map((one) => one.release)),
    ),
  ];
  const named = releases.slice(-NAMED);
  const part = (belongs) =>
    history.map((point) => {
      const all = point.running.reduce((sum, one) => sum + one.devices, 0);
      return all ? point.running.filter(belongs).reduce((sum, one) => sum + one.devices, 0) / all : 0;
    });
  const series = [];
  const offer = (label, hue, pale, belongs) => {
    const values = part(belongs);
    if (values.some((value) => value > 0)) series.push({ label, hue, pale, values });
  };
  offer("older releases", "--hue-6", false, (one) => one.digest && !named.includes(one.release));
  for (const release of named) {
    const hue = `--hue-${1 + (releases.indexOf(release) % NAMED)}`;
    offer(release, hue, false, (one) => one.digest && one.release === release && one.confirmed);
    offer(
      `${release}, unconfirmed`,
      hue,
      true,
      (one) => one.digest && one.release === release && !one.confirmed,
    );
  }
  offer("none", "--line", false, (one) => !one.digest);
  return chart({
    title: "Share of the devices by the release that they reported",
    stacked: true,
    steps: true,
    x: { label: "Time", values: history.map((point) => point.at), time: true },
    y: { label: "Share", from: 0, to: 1, show: percent },
    series,
  });
}
