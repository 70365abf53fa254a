// The traces of an application that the node keeps: a list, and a waterfall with the bill of one.

import { application, call } from "./api.js";
import { problem } from "./dialog.js";
import { make, mark, say, scrolling } from "./dom.js";
import { clock, count, duration, percent, plural, visible } from "./format.js";
import { barOf, coordination, legend, PARTS } from "./spent.js";

const REFRESH_MS = 5000;
const LIMIT = 20;
/** Calls of the node, of which there is a duration and no more. */
const CALLS = new Set(["KIND_FETCH", "KIND_STORE", "KIND_START"]);
const KINDS = {
  KIND_MESSAGE: "message",
  KIND_ASK: "ask",
  KIND_TELL: "tell",
  KIND_FETCH: "fetch",
  KIND_STORE: "store",
  KIND_START: "start",
};

export class Traces {
  /** `traceId` is one to show at once, or null; `showLines` shows the log's lines of one. */
  constructor(name, traceId, showLines) {
    this.name = name;
    this.traceId = traceId;
    this.showLines = showLines;
    this.isSlowest = false;
    this.list = make("div", { class: "traces" });
    this.choices = [
      [false, "Newest"],
      [true, "Slowest of the last hour"],
    ].map(([isSlowest, label]) =>
      make("button", { type: "button", "aria-pressed": String(!isSlowest), click: () => this.#choose(isSlowest) }, label),
    );
    this.element = make(
      "section",
      { class: "card", id: "traces", "aria-label": "Traces" },
      make("div", { class: "card-head" }, make("h2", {}, "Traces"), make("div", { class: "choices", role: "group", "aria-label": "Which" }, this.choices)),
      this.list,
    );
    say(this.list, "…");
  }

  open() {
    this.ending = new AbortController();
    if (this.traceId) this.showOne(this.traceId);
    else this.#load();
    this.timer = setInterval(() => this.#mayRefresh() && this.#load(), REFRESH_MS);
  }

  close() {
    clearInterval(this.timer);
    this.ending?.abort();
  }

  /** Nothing moves under the pointer, and what is open stays. */
  #mayRefresh() {
    const isUsed = this.list.matches(":hover") || this.list.contains(document.activeElement);
    return !document.hidden && !isUsed && !this.list.querySelector("details[open]") && !this.traceId;
  }

  #choose(isSlowest) {
    this.isSlowest = isSlowest;
    this.traceId = null;
    this.choices.forEach((button, index) => mark(button, "aria-pressed", String(Boolean(index) === isSlowest)));
    this.#load();
  }

  async #load() {
    const query = { limit: LIMIT, ...(this.isSlowest && { slowest: true }) };
    await this.#ask(query, (traces) => {
      if (traces.length === 0) {
        const nothing = make("p", { class: "quiet" }, "None is kept yet: the node traces a part of the messages, and those that say so in traceparent. In a terminal:");
        this.list.replaceChildren(nothing, make("pre", {}, `plexspaces trace ${visible(this.name)}`));
      } else this.list.replaceChildren(...traces.map((trace) => this.#item(trace, false)));
    });
  }

  /** Show one trace, by its id. */
  async showOne(traceId) {
    this.traceId = traceId;
    for (const button of this.choices) mark(button, "aria-pressed", "false");
    await this.#ask({ trace_id: traceId }, (traces) => {
      const items = traces.map((trace) => this.#item(trace, true));
      if (items.length === 0) items.push(make("p", { class: "quiet" }, `The trace ${visible(traceId)} is not kept any more, or it never was: the node keeps the last and the slowest ones.`));
      this.list.replaceChildren(...items);
      this.element.scrollIntoView();
    });
  }

  async #ask(query, show) {
    try {
      const told = await call("GET", application(this.name, "traces"), { query, signal: this.ending.signal, exact: true });
      show(told.traces);
    } catch (error) {
      if (error.name !== "AbortError") this.list.replaceChildren(problem(error));
    }
  }

  #item(trace, isOpen) {
    const [first] = trace.spans;
    const failed = trace.spans.find((span) => span.error_code);
    const content = make("div", { class: "trace-content" });
    const item = make(
      "details",
      {
        class: "trace",
        open: isOpen,
        toggle: () => {
          if (item.open && !content.hasChildNodes()) content.append(...contentOf(trace, this.showLines));
        },
      },
      make(
        "summary",
        {},
        make("time", {}, clock(first.start_unix_ns)),
        make("strong", {}, visible(first.name || "–")),
        barOf(first),
        make("span", { class: "number" }, first.total_ns ? duration(first.total_ns) : "not ended"),
        make("span", { class: "quiet" }, plural(trace.spans.length + trace.dropped_spans, "span")),
        make("span", { class: "trace-note" }, failed ? make("span", { class: "problem" }, `▲ ${visible(failed.error_code)}`) : trace.spans.some((span) => span.cold_start) ? "cold start" : ""),
      ),
      content,
    );
    if (isOpen) content.append(...contentOf(trace, this.showLines));
    return item;
  }
}

function contentOf(trace, showLines) {
  return [
    make("p", { class: "quiet" }, "Trace ", make("code", {}, visible(trace.trace_id)), " ", make("button", { type: "button", class: "plain", click: () => showLines(trace.trace_id) }, "Its log lines")),
    waterfall(trace),
    trace.dropped_spans > 0 && make("p", { class: "quiet" }, `${plural(trace.dropped_spans, "span")} more were over the limit.`),
    trace.bill && bill(trace),
  ].filter(Boolean);
}

/** A bar for each span, by its start and its end. */
function waterfall(trace) {
  const first = trace.spans[0].start_unix_ns;
  const from = (span) => Number(span.start_unix_ns - first);
  const depths = new Map();
  for (const span of trace.spans) depths.set(span.span_id, depths.has(span.parent_id) ? depths.get(span.parent_id) + 1 : 0);
  const begin = Math.min(...trace.spans.map(from));
  const end = Math.max(...trace.spans.map((span) => from(span) + span.total_ns), begin + 1);
  const part = (ns) => `${(ns / (end - begin)) * 100}%`;
  const rows = trace.spans.map((span) => {
    const isMessage = !CALLS.has(span.kind);
    const bar = isMessage ? barOf(span) : make("span", { class: "bar call" });
    const times = isMessage ? `: ${bar.getAttribute("aria-label")}` : "";
    const label = `${duration(from(span) - begin)} after the start, ${span.total_ns ? duration(span.total_ns) : "not ended"}${times}`;
    bar.setAttribute("aria-label", label);
    bar.setAttribute("role", "img");
    bar.title = label;
    if (!span.total_ns) bar.classList.add("open");
    bar.style.marginLeft = part(from(span) - begin);
    bar.style.width = span.total_ns ? part(span.total_ns) : "auto";
    const name = make("span", { class: "span-name" }, make("span", { class: "quiet" }, `${KINDS[span.kind] ?? "span"} `), visible(span.application || "hidden"), " ", make("strong", {}, visible(span.name)));
    name.style.paddingLeft = `${Math.min(depths.get(span.span_id), 12) * 0.9}rem`;
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, name, span.error_code && make("span", { class: "problem" }, `▲ ${visible(span.error_code)}: ${visible(span.error).slice(0, 200)}`), span.cold_start && make("small", {}, "cold start")),
      make("td", { class: "track" }, bar),
      make("td", { class: "number" }, span.total_ns ? duration(span.total_ns) : "not ended"),
    );
  });
  return make(
    "div",
    { class: "waterfall" },
    make("div", { class: "card-head" }, legend(), make("span", { class: "quiet" }, "A call of the node is hatched. Within the bar of a message the colours are sizes, not positions: how much of each there was, not when.")),
    scrolling(
      "Spans",
      make("table", { class: "plain-table" }, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Span"), make("th", { scope: "col" }, `0 to ${duration(end - begin)}`), make("th", { scope: "col", class: "number" }, "Total"))), make("tbody", {}, rows)),
    ),
  );
}

/** What the chain cost, each hop without those that it caused, and which hop to blame. */
function bill(trace) {
  const { bill } = trace;
  const blamed = bill.hops[bill.blame];
  const share = (hop) => (bill.coordination_ns ? percent(coordination(hop) / bill.coordination_ns) : "–");
  return make(
    "div",
    { class: "bill" },
    make("h3", {}, "The bill of the chain"),
    make(
      "p",
      {},
      make("strong", { class: "compute-text" }, `${duration(bill.compute_ns)} compute`),
      " and ",
      make("strong", { class: "wasted-time" }, `${duration(bill.coordination_ns)} coordination`),
      ` in ${plural(bill.hops.length, "hop")}, ${duration(bill.total_ns)} for whoever sent it. `,
      blamed && [
        "To blame: ",
        make("strong", {}, `${visible(blamed.application || "hidden")} ${visible(blamed.type)}`),
        ` with ${duration(coordination(blamed))} of coordination, ${share(blamed)} of all of it.`,
      ],
    ),
    scrolling(
      "Hops",
      make(
        "table",
        { class: "plain-table" },
        make("thead", {}, make("tr", {}, ["Hop", "", ...PARTS.map((part) => part.label), "Coordination"].map((title, index) => make("th", { scope: "col", class: index > 1 ? "number" : null }, title || make("span", { class: "unseen" }, "As a bar"))))),
        make(
          "tbody",
          {},
          bill.hops.map((hop, index) =>
            make(
              "tr",
              { class: index === bill.blame ? "blamed" : null },
              make("th", { scope: "row" }, `${count(index + 1)}. ${visible(hop.application || "hidden")} `, visible(hop.type), index === bill.blame && make("span", { class: "blame" }, "to blame")),
              make("td", {}, barOf(hop)),
              PARTS.map((part) => make("td", { class: "number" }, duration(hop[part.field]))),
              make("td", { class: "number" }, `${duration(coordination(hop))} · ${share(hop)}`),
            ),
          ),
        ),
      ),
    ),
  );
}
