/* The page: who looks, what is shown, and whether it is still true. */

import { get, post, RequestError, whoAmI } from "./api.js";
import { keepTime, moment } from "./clock.js";
import { SIGNED_OUT, signIn } from "./dialogs.js";
import { h, plain, quoted, replace, setText } from "./dom.js";
import { counted, fixed, span } from "./format.js";
import { LiveFleet } from "./live.js";
import { place } from "./router.js";
import { AuditView, deniers } from "./views/audit.js";
import { DeviceView } from "./views/device.js";
import { FleetView } from "./views/fleet.js";
import { RewardsView } from "./views/rewards.js";
import { RoundsView, RoundView } from "./views/rounds.js";
import { VersionsView } from "./views/versions.js";

const VIEWS = {
  __proto__: null, // the address may name anything
  fleet: FleetView,
  rounds: RoundsView,
  rewards: RewardsView,
  versions: VersionsView,
  audit: AuditView,
};
const DETAILS = { __proto__: null, device: DeviceView, rounds: RoundView };
const SAID_MS = 8000;

const by = (id) => document.getElementById(id);

class App {
  constructor() {
    this.live = new LiveFleet();
    this.me = { user: "", role: "", read_only: "" };
    this.actions = [];
    this.fleetActions = [];
    this.widths = [];
    this.view = null;
    this.shown = "";
    this.dialog = null;
  }

  get mayAct() {
    return this.me.role === "operator" && this.me.user !== "" && !this.me.read_only;
  }

  async start() {
    keepTime(() => this.live.now);
    setInterval(() => this.#showConnection(), 1000);
    window.addEventListener("hashchange", () => this.#go(true));
    window.addEventListener(SIGNED_OUT, () => this.#learn());
    by("skip").addEventListener("click", (event) => {
      event.preventDefault();
      by("main").focus();
    });
    for (const kind of ["snapshot", "overview", "devices"])
      this.live.addEventListener(kind, (event) => this.#told(kind, event.detail));
    this.live.addEventListener("state", () => this.#showConnection());
    this.live.addEventListener("refused", () => this.#refused());
    await this.#learn();
  }

  /* Who looks decides what is shown: the views begin after that. */
  async #learn() {
    try {
      this.me = await whoAmI();
      await this.#learnActions();
      this.dialog?.close();
      this.live.start();
    } catch (error) {
      if (error.status === 401) {
        this.#strange();
        return;
      }
      this.live.start(); // it tells for itself that nobody answers, and tries again
    }
    this.#showWho();
    this.#go(false);
  }

  async #learnActions() {
    const offered = this.me.role === "operator" ? await get("api/actions") : { actions: [] };
    this.actions = offered.actions.map((one) => one.action);
    this.widths = offered.widths ?? [];
    this.fleetActions = offered.actions.filter((one) => one.fleet).map((one) => one.action);
  }

  #strange() {
    this.live.stop();
    this.me = { user: "", role: "", read_only: "" };
    this.live.overview = null;
    this.live.rows = new Map();
    this.view?.leave();
    this.view = null;
    this.shown = "";
    this.#showWho();
    replace(by("banners"));
    replace(by("now"));
    replace(by("views"));
    setText(by("fleet-name"), "");
    document.title = "Slimfleet: sign in";
    replace(
      by("main"),
      h("h1", {}, "Sign in"),
      h("p", {}, "This page shows a fleet to those who may see it."),
      h("button", { type: "button", class: "main", on: { click: () => this.#ask() } }, "Sign in"),
    );
    this.#ask();
  }

  #ask() {
    if (this.dialog?.open) return;
    this.dialog = signIn(() => this.#learn());
  }

  async #refused() {
    try {
      await get("api/me");
    } catch (error) {
      if (error.status === 401) this.#strange();
    }
  }

  async #signOut() {
    try {
      await post("logout", {});
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
    }
    location.reload();
  }

  #go(moved) {
    if (this.me.role === "") return;
    const { view, name, parameters } = place();
    const kind = (name !== "" && DETAILS[view]) || VIEWS[view] || FleetView;
    this.view?.leave();
    this.view = new kind(this, name, parameters);
    this.shown = view in DETAILS && view === "device" ? "fleet" : view;
    replace(by("main"), this.view.element);
    if (!moved) this.#showNames();
    else {
      this.#showNames();
      by("main").focus({ preventScroll: true });
      window.scrollTo(0, 0);
    }
  }

  #showNames() {
    const { overview } = this.live;
    setText(by("fleet-name"), overview ? plain(overview.fleet) : "");
    document.title = [this.view?.title, overview && plain(overview.fleet), "Slimfleet"]
      .filter(Boolean)
      .join(" \u2013 ");
    replace(
      by("views"),
      h(
        "ul",
        {},
        Object.keys(VIEWS).map((one) =>
          h(
            "li",
            {},
            h(
              "a",
              { href: `#/${one}`, "aria-current": one === this.shown ? "page" : null },
              `${one[0].toUpperCase()}${one.slice(1)}`,
            ),
          ),
        ),
      ),
    );
  }

  #told(kind, detail) {
    this.#showNow();
    if (kind === "snapshot") {
      this.#showNames();
      this.view?.onSnapshot?.();
    }
    if (kind === "overview") this.view?.onOverview?.();
    if (kind === "devices") this.view?.onDevices?.(detail);
    this.#showConnection();
  }

  #showNow() {
    const { overview } = this.live;
    const facts = [
      [
        "Phase",
        [h("b", {}, plain(overview.phase)), " ", overview.phase_since ? moment(overview.phase_since) : null],
      ],
      ["Round", `${overview.rounds_opened} of at most ${overview.budget}`],
      ["Score", overview.score === null ? "not measured" : fixed(overview.score)],
      ["Server", server(overview.server_online)],
    ];
    const drawn = JSON.stringify([
      overview.phase,
      overview.phase_since,
      overview.rounds_opened,
      overview.budget,
      overview.score,
      overview.server_online,
    ]);
    if (drawn !== this.drawnNow)
      replace(
        by("now"),
        facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      );
    this.drawnNow = drawn;
    this.#showBanners(overview);
  }

  #showBanners(overview) {
    const denying = deniers(this.live);
    const found = [
      overview.server_online === false && [
        "bad",
        "Server OFFLINE",
        "Nobody watches the leases: devices that were there are shown as stale. What is shown is the last that the journal holds.",
      ],
      overview.damage && ["bad", "The journal is damaged", overview.damage],
      denying.length > 0 && [
        "bad",
        "Devices deny the journal",
        `${counted(denying.length, "device")} kept a checkpoint that this journal cannot have grown from: see Audit.`,
      ],
      overview.paused && ["warn", "Rounds are paused", overview.paused],
      overview.held && ["warn", "No round opens for the moment", overview.held],
      overview.withheld && ["warn", "The newest weights were not released", overview.withheld],
      overview.stopped && overview.phase !== "finished" && ["plain", "Training is over", overview.stopped],
    ].filter(Boolean);
    const drawn = JSON.stringify(found);
    if (drawn === this.drawnBanners) return;
    this.drawnBanners = drawn;
    replace(
      by("banners"),
      found.map(([kind, title, text]) =>
        h(
          "p",
          { class: `banner ${kind}`, role: kind === "bad" ? "alert" : null },
          h("strong", {}, `${kind === "plain" ? "" : "! "}${title}. `),
          quoted(text),
        ),
      ),
    );
  }

  #showConnection() {
    const { heardAt } = this.live;
    const silent = heardAt ? Math.round((Date.now() - heardAt) / 1000) : 0;
    const isLive = this.live.state === "live";
    const words = !heardAt
      ? "connecting\u2026"
      : `${isLive ? "live" : "connection lost, trying again"}, last update ${silent < 2 ? "just now" : `${span(silent)} ago`}`;
    const element = by("connection");
    setText(element, words);
    element.className = `connection ${isLive ? "" : "lost"}`;
    element.setAttribute("role", isLive || !heardAt ? "none" : "status"); // a broken connection is told, the seconds are not
    if (this.me.role === "") setText(element, "");
  }

  #showWho() {
    const { me } = this;
    replace(
      by("who"),
      me.user
        ? [
            h("span", {}, quoted(me.user), ` (${me.role})`),
            h("button", { type: "button", on: { click: () => this.#signOut() } }, "Sign out"),
          ]
        : me.role && [
            h("span", { class: "soft" }, `not signed in (${me.role})`),
            h("button", { type: "button", on: { click: () => this.#ask() } }, "Sign in"),
          ],
      me.role === "operator" &&
        me.read_only &&
        h("span", { class: "soft", title: plain(me.read_only) }, "read-only"),
    );
  }

  /** Tell the viewer what was done. */
  say(text) {
    const line = h("p", {}, plain(text));
    by("said").append(line);
    setTimeout(() => line.remove(), SAID_MS);
  }
}

function server(online) {
  if (online === null || online === undefined)
    return h("span", { class: "soft", title: "Nobody asked the broker" }, "not asked");
  return online ? h("span", {}, "\u25cf online") : h("b", { class: "bad-text" }, "\u2715 OFFLINE");
}

new App().start();
