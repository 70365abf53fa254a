// What every application does now, from the node's stream; connected again after each loss.

import { events } from "./api.js";

const INTERVAL_MS = 1000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/** The newest activity. Tells `change` after each response of the node, with what changed in it, and
 * `connection` when the stream begins or breaks.
 */
export class Activity extends EventTarget {
  constructor() {
    super();
    this.applications = new Map();
    this.node = null;
    /** Whether the node has told everything at least once. */
    this.isKnown = false;
    this.isConnected = false;
    /** Why it is not connected, and when it tries again. */
    this.problem = null;
    this.retryAt = 0;
    this.running = null;
    this.wake = () => {};
    // A browser has six connections to a node, which all tabs share: one that nobody sees needs none.
    document.addEventListener("visibilitychange", () => {
      if (this.running === null) return;
      if (document.hidden) this.running.abort();
      else this.start();
    });
  }

  start() {
    this.running?.abort();
    this.running = new AbortController();
    this.#run(this.running.signal);
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.isConnected = false;
  }

  /** Do not wait before the next attempt. */
  tryNow() {
    this.wake();
  }

  async #run(signal) {
    let wait = FIRST_WAIT_MS;
    while (!signal.aborted) {
      try {
        let isFirst = true;
        for await (const told of events("/v1/activity", { query: { interval_ms: INTERVAL_MS }, signal })) {
          if (isFirst) this.#connected();
          this.#take(told, isFirst);
          isFirst = false;
          wait = FIRST_WAIT_MS;
        }
        this.problem = null;
      } catch (error) {
        if (signal.aborted) return;
        this.problem = error;
        // Nothing changes about these until somebody does something else.
        if (error.status === 401 || error.status === 403) {
          this.isConnected = false;
          this.dispatchEvent(new Event("connection"));
          return;
        }
      }
      if (signal.aborted) return;
      this.isConnected = false;
      this.retryAt = Date.now() + wait;
      this.dispatchEvent(new Event("connection"));
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, wait);
        signal.addEventListener("abort", resolve, { once: true });
      });
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  }

  #connected() {
    this.isConnected = true;
    this.problem = null;
    this.dispatchEvent(new Event("connection"));
  }

  #take(told, isAll) {
    const changed = told.applications.map((one) => one.name);
    const removed = new Set(told.removed);
    if (isAll) {
      const there = new Set(changed);
      for (const name of this.applications.keys()) if (!there.has(name)) removed.add(name);
    }
    for (const one of told.applications) this.applications.set(one.name, one);
    for (const name of removed) this.applications.delete(name);
    if (told.node) this.node = told.node;
    this.isKnown = true;
    this.dispatchEvent(new CustomEvent("change", { detail: { changed, removed: [...removed] } }));
  }
}
