// What the node advises, with the numbers that it was reckoned from.

import { call } from "./api.js";
import { make, say } from "./dom.js";
import { bytes, count, duration, percent, visible } from "./format.js";

const REFRESH_MS = 15_000;
const UNITS = {
  ns: duration,
  bytes,
  per_s: (value) => `${Number(value.toPrecision(3))} /s`,
  ratio: (value) => (value <= 1 ? percent(value) : `${Number(value.toPrecision(3))}×`),
  count: (value) => count(Number(value.toPrecision(6))),
};

/** The advice for one application, or for all of them. */
export class AdviceCard {
  constructor(name = "") {
    this.name = name;
    this.list = make("div", { class: "advice-list" });
    this.element = make("section", { class: "card advice", "aria-label": "Advice" }, make("h2", {}, "Advice"), this.list);
    say(this.list, "Not asked yet.");
  }

  open() {
    this.ending = new AbortController();
    this.#load();
    this.timer = setInterval(() => document.hidden || this.#load(), REFRESH_MS);
  }

  close() {
    clearInterval(this.timer);
    this.ending?.abort();
  }

  async #load() {
    try {
      const query = this.name ? { name: this.name } : undefined;
      this.#show(await call("GET", "/v1/advice", { query, signal: this.ending.signal }));
    } catch (error) {
      if (error.name !== "AbortError") this.list.replaceChildren(make("p", { class: "quiet" }, visible(error.message)));
    }
  }

  #show(told) {
    const text = JSON.stringify(told);
    if (text === this.told) return;
    this.told = text;
    const nothing = make("p", { class: "quiet" }, "None: nothing that was measured deserves one.");
    const lacking = told.insufficient.length
      ? make(
          "details",
          {},
          make("summary", {}, "Too little data for some rules"),
          make("ul", {}, told.insufficient.map((each) => make("li", {}, visible(each)))),
        )
      : null;
    this.list.replaceChildren(...told.advice.map((each) => this.#advice(each)), ...(told.advice.length ? [] : [nothing]), ...(lacking ? [lacking] : []));
  }

  #advice(each) {
    const gains = [
      each.saved_s_per_s > 0 && `saves ${duration(each.saved_s_per_s * 1e9)} per second`,
      each.saved_s_per_s < 0 && `costs ${duration(each.saved_s_per_s * -1e9)} per second`,
      each.saved_bytes > 0 && `saves ${bytes(each.saved_bytes)}`,
    ].filter(Boolean);
    const link = (name) => make("a", { href: `#/app/${encodeURIComponent(name)}` }, visible(name));
    return make(
      "article",
      {},
      make(
        "p",
        { class: "advice-title" },
        !this.name && (each.application ? link(each.application) : "All applications"),
        !this.name && each.other && [" and ", link(each.other)],
        !this.name && ": ",
        visible(each.advice),
        gains.length > 0 && make("strong", { class: "gain" }, ` ${gains.join(", ")}`),
      ),
      make(
        "ul",
        { class: "facts" },
        each.facts.map((fact) => make("li", {}, make("span", { class: "quiet" }, `${visible(fact.name)} `), (UNITS[fact.unit] ?? String)(fact.value))),
      ),
      make("details", {}, make("summary", {}, "How it is reckoned"), make("p", {}, visible(each.reckoning)), each.command && make("pre", {}, visible(each.command))),
    );
  }
}
