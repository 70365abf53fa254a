// An application's log as it is written, of which the last lines are shown, and a filter.

import { application, events } from "./api.js";
import { problem } from "./dialog.js";
import { framed, make, mark, say } from "./dom.js";
import { clock, count, plural, visible } from "./format.js";

/** No more lines are in the page, or wait to get there. */
const MOST_LINES = 2000;
const TAIL = 500;
/** Longer lines are cut. */
const CUT_CHARACTERS = 1000;
const RETRY_MS = 2000;
const TRACE_ID = /^[0-9a-f]{32}$/;
const LEVELS = { trace: 0, debug: 1, info: 2, warn: 3, warning: 3, error: 4, critical: 5, fatal: 5 };
const CHOICES = [
  ["0", "All levels"],
  ["2", "Info and above"],
  ["3", "Warnings and errors"],
  ["4", "Errors"],
];

/** What has no level, as stdout, counts as information. */
const rankOf = (level) => LEVELS[level.toLowerCase()] ?? LEVELS.info;

export class Logs {
  constructor(name) {
    this.name = name;
    this.pending = [];
    this.skipped = 0;
    this.traceId = "";
    this.lines = make("div", { class: "log", role: "log", "aria-live": "off", "aria-label": "Log", tabindex: "0", scroll: () => this.#scrolled() });
    this.text = make("input", { type: "search", placeholder: "Filter: text or trace id", "aria-label": "Filter the log by text or trace id", input: () => this.#filter() });
    this.level = make("select", { "aria-label": "Level", change: () => this.#filter() }, CHOICES.map(([value, label]) => make("option", { value }, label)));
    this.state = make("span", { class: "quiet", role: "status" });
    this.newest = make("button", { type: "button", hidden: true, click: () => this.#toNewest() }, "Newest lines ↓");
    this.element = make(
      "section",
      { class: "card", id: "log", "aria-label": "Log" },
      make("div", { class: "card-head" }, make("h2", {}, "Log"), this.text, this.level, this.newest, this.state),
      this.lines,
    );
    this.isFollowing = true;
    this.show = framed(() => this.#show());
    this.onVisibility = () => (document.hidden ? this.ending.abort() : this.#follow());
  }

  open() {
    document.addEventListener("visibilitychange", this.onVisibility);
    this.#follow();
  }

  close() {
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.ending?.abort();
  }

  /** Show the lines of one trace. */
  filterBy(text) {
    this.text.value = text;
    this.#filter();
    this.element.scrollIntoView();
  }

  async #follow() {
    this.ending?.abort();
    const ending = new AbortController();
    this.ending = ending;
    const { signal } = ending;
    while (!signal.aborted) {
      this.#clear();
      say(this.state, this.traceId ? "no line of this trace yet" : "no line yet");
      try {
        for await (const line of events(application(this.name, "logs"), { query: { follow: true, tail: TAIL, ...(this.traceId && { trace_id: this.traceId }) }, signal })) this.#take(line);
        if (signal.aborted) return;
        say(this.state, "The log ended; trying again.");
      } catch (error) {
        if (signal.aborted) return;
        if ([401, 403, 404].includes(error.status)) {
          this.lines.replaceChildren(problem(error));
          return;
        }
        say(this.state, "Disconnected; trying again.");
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  #clear() {
    this.pending = [];
    this.skipped = 0;
    this.lines.replaceChildren();
  }

  #take(line) {
    this.pending.push(line);
    // An application may write faster than anybody reads.
    if (this.pending.length > MOST_LINES) {
      this.pending.shift();
      this.skipped += 1;
    }
    this.show();
  }

  #show() {
    const taken = this.pending;
    this.pending = [];
    const most = MOST_LINES - (this.skipped ? 1 : 0);
    const made = taken.slice(-most).map((line) => this.#line(line));
    if (this.skipped) {
      made.unshift(make("div", { class: "line skipped" }, `… ${plural(this.skipped, "line")} came faster than they could be shown`));
      this.skipped = 0;
    }
    const tooMany = this.lines.childElementCount + made.length - MOST_LINES;
    for (let index = 0; index < tooMany && this.lines.firstChild; index += 1) this.lines.firstChild.remove();
    this.lines.append(...made);
    this.#count();
    if (this.isFollowing) this.lines.scrollTop = this.lines.scrollHeight;
  }

  #line(line) {
    const text = visible(line.message);
    const message = make("span", { class: "message" }, text.slice(0, CUT_CHARACTERS));
    if (text.length > CUT_CHARACTERS) {
      const all = make(
        "button",
        {
          type: "button",
          class: "plain",
          click: () => {
            all.remove();
            message.append(text.slice(CUT_CHARACTERS));
          },
        },
        `… show all ${count(text.length)} characters`,
      );
      message.append(all);
    }
    const level = line.level || line.stream;
    const row = make(
      "div",
      { class: "line", "data-level": rankOf(line.level) },
      make("time", {}, clock(line.time_unix_ns)),
      make("span", { class: "level", title: line.stream }, visible(level)),
      message,
    );
    if (line.trace_id) row.append(make("button", { type: "button", class: "plain trace-id", title: "Show the lines of this trace", click: () => this.filterBy(line.trace_id) }, visible(line.trace_id).slice(0, 8)));
    row.searched = `${text} ${line.trace_id}`.toLowerCase();
    this.#hide(row);
    return row;
  }

  #hide(row) {
    const text = this.text.value.trim().toLowerCase();
    mark(row, "hidden", row.searched !== undefined && (!row.searched.includes(text) || Number(row.dataset.level) < Number(this.level.value)) ? "" : null);
  }

  #filter() {
    // The node looks for it in all lines that are kept, of which the last ones are here.
    const text = this.text.value.trim().toLowerCase();
    const traceId = TRACE_ID.test(text) ? text : "";
    if (traceId !== this.traceId) {
      this.traceId = traceId;
      this.#follow();
      return;
    }
    for (const row of this.lines.children) this.#hide(row);
    this.#count();
    if (this.isFollowing) this.lines.scrollTop = this.lines.scrollHeight;
  }

  #count() {
    const all = this.lines.childElementCount;
    const shown = this.lines.querySelectorAll(":scope > :not([hidden])").length;
    const which = all >= MOST_LINES ? `the last ${count(all)} lines` : plural(all, "line");
    say(this.state, shown === all ? which : `${count(shown)} of ${which}`);
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.lines;
    this.isFollowing = scrollHeight - scrollTop - clientHeight < 40;
    this.newest.hidden = this.isFollowing;
  }

  #toNewest() {
    this.isFollowing = true;
    this.lines.scrollTop = this.lines.scrollHeight;
    this.newest.hidden = true;
  }
}
