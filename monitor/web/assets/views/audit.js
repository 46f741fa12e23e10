/* The audit log: the journal's entries, the newest first, with the hash that the next one continues. */

import { get } from "../api.js";
import { clockTime } from "../clock.js";
import { h, plain, quoted, replace, setText } from "../dom.js";
import { bytes, counted, digest } from "../format.js";
import { address, note } from "../router.js";

export class AuditView {
  title = "Audit";

  constructor(app, _, parameters) {
    this.app = app;
    this.device = parameters.get("device") ?? "";
    this.kind = parameters.get("kind") ?? "";
    this.asked = 0;
    this.gone = false;
    this.next = null;
    this.list = h("ol", { class: "entries", reversed: true });
    this.status = h("p", { class: "soft", role: "status" });
    this.proof = h("div");
    this.more = h(
      "button",
      { type: "button", hidden: true, on: { click: () => this.#load(false) } },
      "Older entries",
    );
    this.element = h(
      "div",
      {},
      h("h1", {}, "Audit"),
      h(
        "p",
        { class: "lead" },
        "Every decision of the server and every act of an operator, in order. Each entry holds the hash of the one before it.",
      ),
      this.proof,
      this.#controls(),
      this.status,
      this.list,
      this.more,
    );
    this.#load(true);
  }

  leave() {
    this.gone = true;
  }

  onSnapshot() {
    this.#showProof();
  }

  onOverview() {
    this.#showProof();
  }

  onDevices() {
    this.#showProof();
  }

  #controls() {
    const entered = (name) => (event) => {
      this[name] = event.target.value.trim();
    };
    return h(
      "form",
      {
        class: "row controls",
        role: "search",
        on: {
          submit: (event) => {
            event.preventDefault();
            this.#ask();
          },
        },
      },
      h(
        "span",
        { class: "check" },
        h("label", { for: "audit-device" }, "Device"),
        h("input", {
          id: "audit-device",
          type: "search",
          value: this.device,
          on: { input: entered("device") },
        }),
      ),
      h(
        "span",
        { class: "check" },
        h("label", { for: "audit-kind" }, "Kind"),
        h("input", {
          id: "audit-kind",
          type: "search",
          value: this.kind,
          placeholder: "operator-acted",
          on: { input: entered("kind") },
        }),
      ),
      h("button", { type: "submit" }, "Show"),
    );
  }

  #ask() {
    note("audit", "", { device: this.device, kind: this.kind });
    this.#load(true);
  }

  async #load(anew) {
    this.asked += 1;
    const mine = this.asked;
    const query = new URLSearchParams();
    if (this.device) query.set("device", this.device);
    if (this.kind) query.set("kind", this.kind);
    if (!anew && this.next !== null) query.set("before", this.next);
    setText(this.status, "Asking\u2026");
    try {
      const found = await get(`api/audit?${query}`);
      if (mine !== this.asked || this.gone) return; // another question was asked meanwhile
      if (anew) replace(this.list);
      this.list.append(...found.entries.map(line));
      this.next = found.next;
      this.more.hidden = found.next === null;
      setText(
        this.status,
        `${counted(this.list.childElementCount, "entry", "entries")} shown, the newest in the journal is ${found.head}.${found.entries.length === 0 && found.next !== null ? " None in this stretch: look at older ones." : ""}`,
      );
      this.#showProof();
    } catch (error) {
      if (mine === this.asked) setText(this.status, plain(error.message));
    }
  }

  #showProof() {
    const { overview } = this.app.live;
    if (!overview) return;
    const { damage } = overview;
    const denying = deniers(this.app.live);
    const now = JSON.stringify([damage, denying.map((row) => [row.device, row.contradiction])]);
    if (now === this.shown) return;
    this.shown = now;
    replace(this.proof, damage ? broken(damage) : holds(), denying.map(denied));
  }
}

/** The devices that keep a checkpoint which denies the journal. */
export function deniers(live) {
  return [...live.rows.values()].filter((row) => row.contradiction);
}

function broken(damage) {
  return h("p", { class: "notice bad" }, h("strong", {}, "! The chain is broken. "), plain(damage));
}

function holds() {
  return h(
    "p",
    { class: "notice good" },
    h("strong", {}, "\u2713 The chain holds "),
    "as far as this page has read it. `slimfleet audit verify` checks an export of it anywhere, also against what a device has witnessed.",
  );
}

function denied(row) {
  return h(
    "p",
    { class: "notice bad" },
    h(
      "strong",
      {},
      "! ",
      h("a", { href: address("device", row.device) }, quoted(row.device)),
      " denies this journal. ",
    ),
    plain(row.contradiction),
  );
}

function line(entry) {
  const content =
    entry.event === null || entry.event === undefined
      ? h(
          "a",
          { href: `api/audit/${entry.index}`, target: "_blank", rel: "noopener" },
          `${bytes(entry.bytes)}: open it by itself`,
        )
      : h(
          "pre",
          { tabindex: "0", "aria-label": `Entry ${entry.index}` },
          plain(JSON.stringify(entry.event, null, 1)),
        );
  return h(
    "li",
    {},
    h(
      "details",
      {},
      h(
        "summary",
        {},
        h("span", { class: "index" }, String(entry.index)),
        clockTime(entry.at),
        h("span", { class: "kind" }, plain(entry.kind)),
        h("span", { class: "what" }, summary(entry)),
      ),
      content,
      h(
        "p",
        { class: "soft hash" },
        "hash ",
        h("code", {}, entry.hash),
        h("br"),
        "previous ",
        h("code", {}, entry.previous),
      ),
    ),
    entry.device &&
      h(
        "a",
        {
          class: "to-device",
          href: address("device", entry.device),
          "aria-label": `Device ${plain(entry.device)}`,
        },
        "\u2192",
      ),
  );
}

/* The values that tell one entry from the next, in a line. */
function summary(entry) {
  const told = ([name, value]) =>
    value !== "" && !name.endsWith("_id") && (typeof value !== "object" || value === null);
  const values = Object.entries(entry.event ?? {})
    .filter(told)
    .slice(0, 7);
  return values.flatMap(([name, value], at) => [
    at ? ", " : "",
    `${plain(name)} `,
    quoted(short(String(value))),
  ]);
}

function short(text) {
  return /^[0-9a-f]{32,}$/.test(text) ? digest(text) : text.slice(0, 80);
}
