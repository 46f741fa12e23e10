/* The fleet as the server last told it. A connection begins with a snapshot and goes on with what
   changed; after a break it begins again with a snapshot, so nothing that happened meanwhile is
   missed. */

import { get } from "./api.js";

const QUIET_MS = 30000;
const AGAIN_MS = [1000, 2000, 5000, 10000];

/** Follows the fleet. `overview` and `rows` are what was told last. */
export class LiveFleet extends EventTarget {
  constructor(address = "events") {
    super();
    this.address = address;
    this.overview = null;
    this.rows = new Map();
    this.state = "connecting";
    this.heardAt = 0; // of this machine's clock, milliseconds
    this.offset = 0; // the monitor's clock less this machine's, seconds
    this.tries = 0;
    this.source = null;
    this.timer = 0;
    setInterval(() => this.#doubt(), QUIET_MS);
  }

  /** The time on the monitor's machine: all moments that are shown come from there. */
  get now() {
    return Date.now() / 1000 + this.offset;
  }

  /** Connect, or connect anew. */
  start() {
    this.stop();
    const source = new EventSource(this.address);
    this.source = source;
    source.addEventListener("snapshot", (event) => this.#snapshot(JSON.parse(event.data)));
    source.addEventListener("overview", (event) => this.#overview(JSON.parse(event.data)));
    source.addEventListener("devices", (event) => this.#devices(JSON.parse(event.data)));
    source.addEventListener("error", () => this.#broken(source));
  }

  /** Let go of the connection. */
  stop() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  #snapshot({ overview, devices }) {
    this.tries = 0;
    this.rows = new Map(devices.map((row) => [row.device, row]));
    this.#heard({ ...overview });
    this.#tell("snapshot", {});
  }

  #overview(changes) {
    this.#heard({ ...this.overview, ...changes });
    this.#tell("overview", {});
  }

  #devices(changes) {
    const changed = [];
    let isNew = false;
    for (const one of changes) {
      const before = this.rows.get(one.device);
      isNew ||= !before;
      const row = { ...before, ...one };
      this.rows.set(one.device, row);
      changed.push(row);
    }
    this.#tell("devices", { changed, isNew });
  }

  #heard(overview) {
    this.overview = overview;
    this.heardAt = Date.now();
    if (Number.isFinite(overview.now)) this.offset = overview.now - Date.now() / 1000;
    this.#become("live");
  }

  /* A browser connects again by itself unless it was refused; then we ask why, and try ourselves. */
  #broken(source) {
    this.#become("broken");
    if (source !== this.source || source.readyState !== EventSource.CLOSED) return;
    const wait = AGAIN_MS[Math.min(this.tries, AGAIN_MS.length - 1)];
    this.tries += 1;
    this.timer = setTimeout(() => this.start(), wait);
    this.#tell("refused", {});
  }

  /* A connection can die without a sign, as when a laptop sleeps: after a while without news we ask
     whether there is any. */
  async #doubt() {
    if (this.state !== "live" || Date.now() - this.heardAt < QUIET_MS) return;
    const { last_event_at: known } = this.overview;
    try {
      const { last_event_at: newest } = await get("api/overview");
      if (newest === known || this.overview.last_event_at !== known) return;
    } catch {
      this.#become("broken");
    }
    this.start();
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#tell("state", { state });
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
