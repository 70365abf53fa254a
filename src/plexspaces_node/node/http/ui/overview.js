// The page of all applications: which of them waste their time on coordination, and how the node is.

import { AdviceCard } from "./advice.js";
import { deploy } from "./deploying.js";
import { announce, Facts, framed, make, mark, Rows, say } from "./dom.js";
import { bytes, count, duration, measured, percent, plural, rate, timeRate, visible } from "./format.js";
import { coordination, fill, legend, makeBar, mostly, total } from "./spent.js";
import { makeState, showState } from "./state.js";

/** Over how many seconds the node measures `recent`, unless the application is younger. */
const RECENT_S = 10;
/** Rows that move more often than this nobody can follow. */
const ORDER_MS = 2000;
const ORDER = ["Failed", "Restarting", "Starting", "Stopping", "Running", "Stopped"];

/** Coordination per second of wall time, in nanoseconds. */
const wasted = (one) => coordination(one.recent) / (one.messages_per_s ? one.recent.messages / one.messages_per_s : RECENT_S);
const isolationRank = (one) => ["firecracker", "qemu", "process"].indexOf(one.isolation);

/** `by` is what a column is sorted by; numbers begin with the largest. */
const COLUMNS = [
  { id: "name", title: "Application", by: (one) => one.name },
  { id: "state", title: "State", by: (one) => ORDER.indexOf(one.state) },
  {
    id: "share",
    title: "Time of messages",
    note: "coordination against compute, last 10\u00a0s",
    by: (one) => (total(one.recent) ? coordination(one.recent) / total(one.recent) : -1),
    isNumber: true,
  },
  {
    id: "wasted",
    title: "Coordination",
    note: "per second, last 10\u00a0s",
    by: wasted,
    isNumber: true,
  },
  { id: "rate", title: "Messages", by: (one) => one.messages_per_s, isNumber: true },
  { id: "p50", title: "p50", hint: "the median time of a message, last 30 to 60 s", by: (one) => one.p50_ns, isNumber: true },
  { id: "p99", title: "p99", hint: "99 of 100 messages took less, last 30 to 60 s", by: (one) => one.p99_ns, isNumber: true },
  { id: "memory", title: "Memory", note: "used / given", by: (one) => one.memory_bytes, isNumber: true },
  { id: "restarts", title: "Restarts", by: (one) => one.restarts, isNumber: true },
  { id: "tenant", title: "Tenant", by: (one) => one.tenant },
  { id: "language", title: "Language", by: (one) => one.language },
  { id: "isolation", title: "Level", by: isolationRank },
  { id: "version", title: "Version", by: (one) => one.version },
];

// Kept while the page is open, so that one comes back to what one left.
const chosen = { column: "wasted", isDescending: true, filter: "" };

export class Overview {
  constructor(activity, session) {
    this.activity = activity;
    this.session = session;
    this.title = "Applications";
    this.most = make("p", { class: "most" });
    this.facts = new Facts("summary");
    this.filter = make("input", {
      type: "search",
      value: chosen.filter,
      placeholder: "Filter: name, state, language …",
      "aria-label": "Filter the applications",
      input: () => this.#filter(),
    });
    this.headers = new Map();
    this.body = make("tbody", { role: "rowgroup" });
    this.table = make(
      "table",
      { class: "applications", role: "table", "aria-label": "Applications" },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, COLUMNS.map((column) => this.#header(column)))),
      this.body,
    );
    this.sorting = this.#sorting();
    this.empty = make("div", { class: "empty-state", hidden: true });
    this.shown = make("span", { class: "quiet", role: "status" });
    this.rows = new Rows(this.body, (one) => this.#row(one), (row, one) => this.#update(row, one));
    this.advice = new AdviceCard();
    this.element = make(
      "div",
      { class: "page" },
      make("h1", { class: "unseen", tabindex: "-1" }, "Applications"),
      this.most,
      this.facts.list,
      make(
        "div",
        { class: "tools" },
        this.filter,
        this.shown,
        this.sorting,
        legend(),
        session.mayDeploy && make("button", { type: "button", class: "primary", click: () => deploy({ session }) }, "Deploy…"),
      ),
      this.table,
      this.empty,
      this.advice.element,
    );
    this.changed = new Set();
    this.orderedAt = 0;
    this.show = framed(() => this.#show());
    this.ending = new AbortController();
    // While somebody points at a row or has its link focused, no row moves away from under them.
    for (const kind of ["pointerleave", "focusout"]) this.body.addEventListener(kind, this.show);
  }

  open() {
    const signal = this.ending.signal;
    this.activity.addEventListener(
      "change",
      ({ detail }) => {
        for (const name of [...detail.changed, ...detail.removed]) this.changed.add(name);
        this.show();
      },
      { signal },
    );
    for (const name of this.activity.applications.keys()) this.changed.add(name);
    if (this.activity.isKnown) this.#show();
    else say(this.most, "Waiting for the node …");
    this.advice.open();
  }

  close() {
    this.ending.abort();
    this.advice.close();
  }

  #header(column) {
    const button = make(
      "button",
      { type: "button", class: "sort", title: column.hint ?? column.note, click: () => this.#sortBy(column.id) },
      column.title,
    );
    const header = make(
      "th",
      { role: "columnheader", scope: "col", class: `${column.id}${column.isNumber ? " number" : ""}` },
      button,
      column.note && make("small", {}, column.note),
    );
    this.headers.set(column.id, header);
    return header;
  }

  #sorting() {
    const choice = make(
      "select",
      { "aria-label": "Sort by", change: () => this.#sortBy(choice.value, true) },
      COLUMNS.map((column) => make("option", { value: column.id }, `Sort: ${column.title}`)),
    );
    return make("span", { class: "sorting" }, choice);
  }

  #sortBy(id, isFirst = false) {
    const column = COLUMNS.find((each) => each.id === id);
    const isDescending = chosen.column === id && !isFirst ? !chosen.isDescending : Boolean(column.isNumber);
    Object.assign(chosen, { column: id, isDescending });
    this.#order(true);
    announce(`Sorted by ${column.title}, ${isDescending ? "largest first" : "smallest first"}`);
  }

  #filter() {
    chosen.filter = this.filter.value;
    for (const row of this.rows.byKey.values()) this.#hide(row);
    this.#count();
  }

  #hide(row) {
    const words = chosen.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const isHidden = !words.every((word) => row.searched.includes(word));
    if (row.hidden !== isHidden) row.hidden = isHidden;
  }

  #row(one) {
    const cell = (id, ...children) => {
      const column = COLUMNS.find((each) => each.id === id);
      return make("td", { role: "cell", class: `${id}${column.isNumber ? " number" : ""}`, "data-label": column.title }, children);
    };
    const text = () => make("span");
    const row = make("tr", { role: "row" });
    row.cells_ = {
      state: makeState(),
      bar: makeBar(),
      share: text(),
      wasted: text(),
    };
    const { state, bar, share, wasted } = row.cells_;
    row.append(
      make("th", { role: "rowheader", scope: "row", class: "name" }, make("a", { href: `#/app/${encodeURIComponent(one.name)}` }, visible(one.name))),
      cell("state", state),
      cell("share", bar, share),
      cell("wasted", wasted),
    );
    for (const id of ["rate", "p50", "p99", "memory", "restarts", "tenant", "language", "isolation", "version"]) {
      row.cells_[id] = cell(id);
      row.append(row.cells_[id]);
    }
    return row;
  }

  #update(row, one) {
    const cells = row.cells_;
    const all = total(one.recent);
    showState(cells.state, one.state);
    mark(cells.state, "title", one.last_error ? visible(one.last_error) : null);
    fill(cells.bar, one.recent);
    say(cells.share, all ? percent(coordination(one.recent) / all) : "–");
    say(cells.wasted, timeRate(wasted(one)));
    say(cells.rate, rate(one.messages_per_s));
    say(cells.p50, measured(one.p50_ns));
    say(cells.p99, measured(one.p99_ns));
    const given = one.memory_limit_bytes ? bytes(one.memory_limit_bytes) : "no limit";
    say(cells.memory, one.memory_bytes ? `${bytes(one.memory_bytes)} / ${given}` : "–");
    say(cells.restarts, count(one.restarts));
    say(cells.tenant, visible(one.tenant));
    say(cells.language, one.language);
    say(cells.isolation, one.isolation || "–");
    say(cells.version, visible(one.version));
    mark(row, "data-idle", all === 0 ? "" : null);
    mark(row, "data-failing", one.failures_per_s > 0 || one.state === "Failed" ? "" : null);
    row.searched = [one.name, one.state, one.language, one.kind, one.isolation, one.version, one.public ? "public" : ""]
      .join(" ")
      .toLowerCase();
    this.#hide(row);
  }

  #show() {
    const { applications } = this.activity;
    for (const name of this.changed) {
      const one = applications.get(name);
      if (one === undefined) this.rows.remove(name);
      else this.rows.put(name, one);
    }
    this.changed.clear();
    this.#order(false);
    this.#count();
    const all = [...applications.values()];
    const tenants = new Set(all.map((one) => one.tenant));
    this.table.classList.toggle("one-tenant", tenants.size <= 1);
    this.#showMagnitudes(all);
    this.#showMost(all);
    this.#showSummary(all);
    this.#showEmpty(all.length === 0);
  }

  #order(isAsked) {
    const column = COLUMNS.find((each) => each.id === chosen.column);
    for (const [id, header] of this.headers) {
      mark(header, "aria-sort", id === chosen.column ? (chosen.isDescending ? "descending" : "ascending") : null);
    }
    this.sorting.firstChild.value = chosen.column;
    const isHeld = this.body.matches(":hover") || this.body.contains(document.activeElement);
    const isComplete = this.body.childElementCount === this.rows.byKey.size;
    const isSoon = performance.now() - this.orderedAt < ORDER_MS;
    if (!isAsked && isComplete && (isHeld || isSoon)) return;
    this.orderedAt = performance.now();
    const sign = chosen.isDescending ? -1 : 1;
    const sorted = [...this.activity.applications.values()].filter((one) => this.rows.byKey.has(one.name));
    const keyed = sorted.map((one) => [column.by(one), one.name]);
    keyed.sort(([a, nameA], [b, nameB]) => (a < b ? -sign : a > b ? sign : nameA < nameB ? -1 : 1));
    this.rows.order(keyed.map(([, name]) => name));
  }

  #count() {
    const all = this.rows.byKey.size;
    const shown = [...this.rows.byKey.values()].filter((row) => !row.hidden).length;
    say(this.shown, shown === all ? plural(all, "application") : `${count(shown)} of ${plural(all, "application")}`);
  }

  /** Behind the number of coordination is a bar, whose full length is the most that any has. */
  #showMagnitudes(all) {
    const most = Math.max(...all.map(wasted), 1);
    for (const one of all) {
      const cell = this.rows.byKey.get(one.name)?.cells_.wasted.parentElement;
      const part = `${((wasted(one) / most) * 100).toFixed(1)}%`;
      if (cell && cell.part !== part) {
        cell.part = part;
        cell.style.setProperty("--part", part);
      }
    }
  }

  #showMost(all) {
    const busy = all.filter((one) => wasted(one) > 0).sort((a, b) => wasted(b) - wasted(a));
    const told = busy.slice(0, 3).map((one) => `${one.name} ${timeRate(wasted(one))} ${mostly(one.recent).name}`).join();
    if (this.most.told === told) return;
    this.most.told = told;
    if (busy.length === 0) {
      this.most.replaceChildren("No message in the last 10 s.");
      return;
    }
    const [first, ...others] = busy.slice(0, 3);
    const link = (one) => make("a", { href: `#/app/${encodeURIComponent(one.name)}` }, visible(one.name));
    const part = mostly(first.recent);
    const shares = first.recent[part.field] / coordination(first.recent);
    this.most.replaceChildren(
      make("strong", {}, "Most coordination: ", link(first)),
      " spends ",
      make("strong", { class: "wasted-time" }, duration(wasted(first))),
      ` of every second on it, ${percent(coordination(first.recent) / total(first.recent))} of the time of its messages. `,
      "Most of that is ",
      make("strong", { title: part.means }, part.label.toLowerCase()),
      ` (${percent(shares)}).`,
      ...(others.length ? [make("span", { class: "quiet" }, " Then ", others.flatMap((one, index) => [index ? ", " : "", link(one), ` ${timeRate(wasted(one))}`]), ".")] : []),
    );
  }

  #showSummary(all) {
    const states = new Map();
    for (const one of all) states.set(one.state, (states.get(one.state) ?? 0) + 1);
    const sum = (field) => all.reduce((so, one) => so + one[field], 0);
    const named = [...states].sort(([a], [b]) => ORDER.indexOf(a) - ORDER.indexOf(b));
    this.facts.say("Applications", named.map(([state, number]) => `${count(number)} ${state.toLowerCase()}`).join(", ") || "none");
    this.facts.say("Messages", rate(sum("messages_per_s")));
    this.facts.say("Failures", rate(sum("failures_per_s")));
    const node = this.activity.node;
    if (!node) return;
    this.facts.say("Level", node.isolation);
    this.facts.say("Node memory", bytes(node.memory_bytes));
    this.facts.say("Node CPU", `${Math.round(node.cpu_percent)} % of one of ${node.cpus}`);
    this.facts.say("Event loop late", node.loop_lag_ns ? `at most ${duration(node.loop_lag_ns)}` : "–", "the longest in the last 10\u00a0s");
    this.facts.say("Given to VMs", `${bytes(node.granted_memory_bytes)} of ${bytes(node.host_memory_bytes)}`);
  }

  #showEmpty(isEmpty) {
    this.table.hidden = isEmpty;
    this.most.hidden = isEmpty;
    this.empty.hidden = !isEmpty;
    if (!isEmpty || this.empty.hasChildNodes()) return;
    this.empty.append(
      make("p", {}, make("strong", {}, "No applications yet.")),
      make("p", {}, "Begin one and deploy it, in a terminal:"),
      make("pre", {}, "plexspaces new python hello && cd hello\nplexspaces deploy ."),
      make("p", {}, this.session.mayDeploy ? "or choose a WebAssembly file with the button Deploy." : "Your token does not allow to deploy."),
    );
  }
}
