// The page of one application: where its time goes, and what can be done with it.

import { AdviceCard } from "./advice.js";
import { application, call } from "./api.js";
import { Charts } from "./chart.js";
import { deploy } from "./deploying.js";
import { confirm, problem } from "./dialog.js";
import { announce, Facts, make, mark, Rows, say, scrolling } from "./dom.js";
import { bytes, clock, count, duration, measured, percent, plural, rate, visible } from "./format.js";
import { invoke } from "./invoking.js";
import { Logs } from "./logs.js";
import { phaseBar, phaseNumbers, totalOf } from "./phases.js";
import { coordination, fill, Legend, makeBar, total } from "./spent.js";
import { makeState, showState } from "./state.js";
import { Traces } from "./traces.js";

const REFRESH_MS = 2000;
/** More errors are there once one asks for them. */
const SHOWN_FAILURES = 3;
const ORIGINS = { failed: "returned an error", trapped: "crashed", platform: "failed in the node" };
const REASONS = { deploy: "Deployed", replace: "Replaced", start: "Started", restart: "Restarted", recover: "Recovered", roll_back: "Rolled back", secret: "Started for a changed secret", place: "Placed on this node" };

export class ApplicationPage {
  /** `traceId` is of a trace to show at once, or null. */
  constructor(activity, session, name, traceId) {
    this.activity = activity;
    this.session = session;
    this.name = name;
    this.title = name;
    this.current = activity.applications.get(name) ?? null;
    this.types = [];
    this.state = makeState();
    this.about = make("span", { class: "quiet" });
    this.buttons = make("div", { class: "buttons" });
    this.error = make("div");
    this.facts = new Facts("summary live");
    this.bar = makeBar();
    this.bar.classList.add("large");
    this.legend = new Legend();
    this.isTotal = false;
    this.windows = ["Last 10 s", "Since the node started"].map((label, index) =>
      make("button", { type: "button", "aria-pressed": String(index === 0), click: () => this.#choose(index === 1) }, label),
    );
    this.share = make("span", { class: "quiet" });
    this.charts = new Charts();
    this.advice = new AdviceCard(name);
    this.logs = new Logs(name);
    this.traces = new Traces(name, traceId, (id) => this.logs.filterBy(id));
    this.#makeTables();
    this.rest = make(
      "div",
      { class: "page-rest" },
      this.facts.list,
      this.#card("Where the time goes", [this.windows], this.bar, this.legend.element, this.share),
      this.#card("The last minutes", [], this.charts.element),
      this.advice.element,
      make("div", { class: "two" }, this.typesCard, this.asksCard),
      this.startsCard,
      this.failuresCard,
      this.traces.element,
      this.logs.element,
    );
    this.element = make(
      "div",
      { class: "page application" },
      make("div", { class: "title" }, make("h1", { tabindex: "-1" }, visible(name)), this.state, this.about, this.buttons),
      this.error,
      session.mayRead ? this.rest : make("p", {}, "The token allows to send messages to it, and no more."),
      make("div", { class: "drop-here", "aria-hidden": "true" }, "Drop a .wasm file to replace ", make("strong", {}, visible(name))),
    );
    this.ending = new AbortController();
  }

  open() {
    this.#showButtons();
    if (!this.session.mayRead) return;
    const { signal } = this.ending;
    this.activity.addEventListener("change", ({ detail }) => this.#changed(detail), { signal });
    // A node that is there again has other things to tell.
    this.activity.addEventListener("connection", () => this.activity.isConnected && this.#load(), { signal });
    if (this.current) this.#showCurrent();
    this.charts.open();
    this.advice.open();
    this.traces.open();
    this.logs.open();
    this.#load();
    this.timer = setInterval(() => document.hidden || this.#load(), REFRESH_MS);
    if (this.session.mayDeploy) this.#takeDrops();
  }

  close() {
    this.ending.abort();
    clearInterval(this.timer);
    for (const part of [this.charts, this.advice, this.traces, this.logs]) part.close();
  }

  #card(title, tools, ...content) {
    return make("section", { class: "card live", "aria-label": title }, make("div", { class: "card-head" }, make("h2", {}, title), tools.length > 0 && make("div", { class: "choices", role: "group", "aria-label": "Which" }, tools)), content);
  }

  #table(title, headings, empty) {
    const body = make("tbody");
    const table = make(
      "table",
      { class: "plain-table" },
      make("thead", {}, make("tr", {}, headings.map(([heading, kind]) => make("th", { scope: "col", class: kind ?? null }, heading)))),
      body,
    );
    const nothing = make("div", { class: "quiet" }, empty);
    const card = this.#card(title, [], scrolling(`${title}, table`, table), nothing);
    const show = (isEmpty) => {
      table.hidden = isEmpty;
      nothing.hidden = !isEmpty;
    };
    show(true);
    return { body, card, show };
  }

  #makeTables() {
    const number = "number";
    const name = visible(this.name);
    const types = this.#table("Message types", [["Type"], ["Messages", number], ["Failures", number], ["Time"], ["Compute", number], ["Coordination", number], ["Payload", number], ["Reply", number]], [
      "No messages since the node started. ",
      make("code", {}, `plexspaces invoke ${name} --type TYPE --data '…'`),
    ]);
    const asks = this.#table("It asks", [["Application"], ["Asks", number], ["Failures", number], ["An ask", number], ["Compute there", number], ["Coordination", number]], "It has asked no other application since the node started.");
    this.typesCard = types.card;
    this.asksCard = asks.card;
    this.showTypes = types.show;
    this.showAsks = asks.show;
    const row = (labels) => {
      const cells = labels.map((kind) => make("td", { class: kind }));
      const made = make("tr", {}, make("th", { scope: "row" }), cells);
      made.shown = [made.firstChild, ...cells];
      return made;
    };
    this.typeRows = new Rows(
      types.body,
      () => {
        const made = row([number, number, null, number, number, number, number]);
        made.bar = makeBar();
        made.shown[3].append(made.bar);
        return made;
      },
      (made, each) => {
        const { spent } = each;
        const messages = Math.max(spent.messages, 1);
        fill(made.bar, spent);
        const texts = [each.type ? visible(each.type) : "all others", count(spent.messages), count(spent.failures), null, duration(spent.compute_ns / messages), duration(coordination(spent) / messages), bytes(Math.round(each.payload_bytes / messages)), bytes(Math.round(each.reply_bytes / messages))];
        texts.forEach((text, index) => text !== null && say(made.shown[index], text));
      },
    );
    this.askRows = new Rows(
      asks.body,
      (each) => {
        const made = row([number, number, number, number, number]);
        const tenant = this.session.tenantOf(this.name);
        const full = tenant ? `${tenant}/${each.to}` : each.to;
        made.shown[0].append(each.to ? make("a", { href: `#/app/${encodeURIComponent(full)}` }, visible(each.to)) : "all others");
        return made;
      },
      (made, each) => {
        const asked = Math.max(each.answered, 1);
        const texts = [null, count(each.asks), count(each.failures), duration(each.total_ns / asked), duration(each.compute_ns / asked), `${duration((each.total_ns - each.compute_ns) / asked)} · ${percent((each.total_ns - each.compute_ns) / Math.max(each.total_ns, 1))}`];
        texts.forEach((text, index) => text !== null && say(made.shown[index], text));
      },
    );
    this.starts = make("ol", { class: "starts" });
    this.startsCard = this.#card("Deploys and starts", [], this.starts);
    this.failures = make("ol", { class: "failures" });
    this.moreFailures = make("details", { hidden: true }, make("summary", {}), make("ol", { class: "failures" }));
    this.failuresCard = this.#card("Last errors", [], this.failures, this.moreFailures);
  }

  #choose(isTotal) {
    this.isTotal = isTotal;
    this.windows.forEach((button, index) => mark(button, "aria-pressed", String(Boolean(index) === isTotal)));
    this.#showCurrent();
  }

  #changed(detail) {
    const now = this.activity.applications.get(this.name) ?? null;
    if (detail.removed.includes(this.name) && now === null) {
      this.#gone();
    } else if (now !== null) {
      this.current = now;
      this.#showCurrent();
    }
  }

  #gone() {
    this.current = null;
    this.error.replaceChildren(
      make("div", { class: "empty-state" }, make("p", {}, make("strong", {}, `There is no application ${visible(this.name)}.`)), make("p", {}, make("a", { href: "#/" }, "All applications")), make("pre", {}, "plexspaces deploy .")),
    );
    this.rest.hidden = true;
    mark(this.state, "hidden", "");
    this.#showButtons();
  }

  async #load() {
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      const told = await call("GET", application(this.name, "activity"), { signal: this.ending.signal });
      if (this.rest.hidden) {
        this.rest.hidden = false;
        this.error.replaceChildren();
        mark(this.state, "hidden", null);
      }
      this.current = told.application;
      this.#showCurrent();
      this.#showActivity(told);
    } catch (error) {
      if (error.status === 404) this.#gone();
      else if (error.status === 403) this.error.replaceChildren(problem(error));
      // Else the banner says that the node is not there.
    } finally {
      this.isLoading = false;
    }
  }

  #showCurrent() {
    const one = this.current;
    if (one === null) return;
    showState(this.state, one.state);
    say(this.about, [one.language, one.kind, `version ${visible(one.version)}`, one.isolation, one.public ? "public" : ""].filter(Boolean).join(" · "));
    this.facts.say("Messages", rate(one.messages_per_s));
    this.facts.say("Failures", rate(one.failures_per_s));
    this.facts.say("p50", measured(one.p50_ns), "the median time of a message, last 30 to 60 s");
    this.facts.say("p99", measured(one.p99_ns), "99 of 100 messages took less, last 30 to 60 s");
    this.facts.say("In flight", plural(one.in_flight, "message"));
    const given = one.memory_limit_bytes ? bytes(one.memory_limit_bytes) : "no limit";
    this.facts.say("Memory", one.memory_bytes ? `${bytes(one.memory_bytes)} of ${given}` : "–");
    this.facts.say("CPU", `${Math.round(one.cpu_percent)} % of one CPU`);
    this.facts.say("Restarts", count(one.restarts));
    this.facts.say("Since the node started", `${plural(one.total.messages, "message")}, ${plural(one.total.failures, "failure")}`);
    const spent = this.isTotal ? one.total : one.recent;
    fill(this.bar, spent);
    this.legend.show(spent);
    const all = total(spent);
    say(this.share, all ? `${percent(coordination(spent) / all)} of the time of ${plural(spent.messages, "message")} is coordination: ${duration(coordination(spent) / Math.max(spent.messages, 1))} of it a message, and ${duration(spent.compute_ns / Math.max(spent.messages, 1))} of compute.` : "No messages in that time.");
    if (this.shownError !== one.last_error) {
      this.shownError = one.last_error;
      this.error.replaceChildren(...(one.last_error ? [make("p", { class: "problem card" }, `${one.state}: `, visible(one.last_error))] : []));
    }
    this.#showButtons();
  }

  #showActivity(told) {
    this.charts.show(told.history);
    this.types = told.types.map((each) => each.type).filter(Boolean);
    this.showTypes(told.types.length === 0);
    this.typeRows.show(told.types, (each) => each.type);
    this.showAsks(told.asks.length === 0);
    this.askRows.show(told.asks, (each) => each.to);
    this.#showStarts(told.starts);
    this.#showFailures(told.failures);
  }

  #showStarts(starts) {
    const text = JSON.stringify(starts);
    if (this.startsText === text) return;
    this.startsText = text;
    const longest = Math.max(...starts.map((start) => totalOf(start.phases)));
    this.starts.replaceChildren(
      ...starts.map((start) =>
        make(
          "li",
          { "data-failed": start.failed ? "" : null },
          make(
            "p",
            {},
            make("time", {}, clock(start.time_unix_ns)),
            " ",
            make("strong", {}, REASONS[start.reason] ?? visible(start.reason)),
            start.failed && make("strong", { class: "problem" }, " ▲ failed"),
            ` · version ${visible(start.version)}`,
            start.phases.length > 0 && ` · ${duration(totalOf(start.phases))}`,
            start.cause && make("span", { class: start.failed ? "problem" : "quiet" }, ` · ${visible(start.cause)}`),
          ),
          start.phases.length > 0 && [phaseBar(start.phases, longest), phaseNumbers(start.phases)],
        ),
      ),
    );
    if (starts.length === 0) this.starts.replaceChildren(make("li", { class: "quiet" }, "None since the node started."));
  }

  #showFailures(failures) {
    const text = JSON.stringify(failures);
    if (this.failuresText === text) return;
    this.failuresText = text;
    const items = failures.map((each) => this.#failure(each));
    this.failures.replaceChildren(...items.slice(0, SHOWN_FAILURES));
    const more = items.slice(SHOWN_FAILURES);
    this.moreFailures.hidden = more.length === 0;
    say(this.moreFailures.firstChild, `${count(more.length)} more`);
    this.moreFailures.lastChild.replaceChildren(...more);
    if (failures.length === 0) this.failures.replaceChildren(make("li", { class: "quiet" }, "None since the node started."));
  }

  #failure(each) {
    return make(
      "li",
      {},
      make(
        "p",
        {},
        make("time", {}, clock(each.time_unix_ns)),
        " ",
        make("strong", {}, visible(each.type)),
        ` ${ORIGINS[each.origin] ?? visible(each.origin)}: `,
        make("code", {}, visible(each.code)),
        each.trace_id && make("button", { type: "button", class: "plain", click: () => this.traces.showOne(each.trace_id) }, "Trace"),
        each.trace_id && make("button", { type: "button", class: "plain", click: () => this.logs.filterBy(each.trace_id) }, "Its log lines"),
      ),
      each.message && make("pre", {}, visible(each.message)),
    );
  }

  /** What may be done now; a button that is there stays the same one, so that it keeps the focus. */
  #showButtons() {
    const { current, session } = this;
    const isThere = current !== null;
    const mayInvoke = isThere ? session.mayInvoke(current) : !session.mayRead && session.mayInvoke({});
    const isEnded = isThere && ["Stopped", "Failed"].includes(current.state);
    const wanted = [
      mayInvoke && ["Send a message…", "primary", () => invoke(this.name, this.types)],
      isThere && session.mayDeploy && isEnded && ["Start", null, () => this.#start()],
      isThere && session.mayDeploy && current.state !== "Stopped" && ["Stop…", "danger", () => this.#stop()],
      isThere && session.mayDeploy && ["Replace…", null, () => deploy({ session, replaced: this.current })],
      isThere && session.mayDeploy && ["Undeploy…", "danger", () => this.#undeploy()],
    ].filter(Boolean);
    const labels = wanted.map(([label]) => label).join();
    if (this.offered === labels) return;
    this.offered = labels;
    this.buttons.replaceChildren(...wanted.map(([label, kind, click]) => make("button", { type: "button", class: kind, click }, label)));
  }

  async #start() {
    this.error.replaceChildren();
    this.shownError = null;
    try {
      announce(`Starting ${this.name}`);
      const told = await call("POST", application(this.name, "start"));
      announce(`${this.name} is ${told.state}`);
      await this.#load();
    } catch (error) {
      this.error.replaceChildren(problem(error));
    }
  }

  #stop(force = false, why = null) {
    const name = visible(this.name);
    const inFlight = this.current?.in_flight ?? 0;
    const question = {
      title: `Stop ${name}?`,
      lost: force
        ? [problem(why), "If it is stopped anyway, all that changed in its state since the last snapshot is lost."]
        : `Messages to it fail until it is started again. Its state is saved, with its keys and its log.${inFlight ? ` ${plural(inFlight, "message")} in flight may be lost.` : ""}`,
      label: force ? "Stop anyway" : "Stop",
      perform: async () => {
        await call("POST", application(this.name, "stop"), { query: force ? { force: true } : undefined });
        announce(`${this.name} is stopped`);
        await this.#load();
      },
      // Its state could not be saved; it still runs.
      otherwise: (error) => (!force && error.hint.includes("force") ? this.#stopQuestion(error) : null),
    };
    if (force) return question;
    confirm(question);
    return question;
  }

  #stopQuestion(error) {
    return this.#stop(true, error);
  }

  #undeploy() {
    const name = visible(this.name);
    confirm({
      title: `Undeploy ${name}?`,
      lost: "Its VM, its state, its keys and its log are removed, and cannot be had back. Its artifact stays in the node's cache until others need the room.",
      label: `Undeploy ${name}`,
      perform: async () => {
        await call("DELETE", application(this.name));
        announce(`${this.name} is removed`);
        location.hash = "#/";
      },
    });
  }

  #takeDrops() {
    const { signal } = this.ending;
    const hasFile = (event) => [...event.dataTransfer.types].includes("Files") && !document.querySelector("dialog[open]");
    const over = (isOver) => this.element.classList.toggle("dropping", isOver);
    addEventListener(
      "dragover",
      (event) => {
        if (!hasFile(event)) return;
        event.preventDefault();
        over(this.current !== null);
      },
      { signal },
    );
    addEventListener("dragleave", (event) => event.relatedTarget === null && over(false), { signal });
    addEventListener(
      "drop",
      (event) => {
        if (!hasFile(event)) return;
        event.preventDefault();
        over(false);
        const [file] = event.dataTransfer.files;
        if (file && this.current) deploy({ session: this.session, replaced: this.current, file });
      },
      { signal },
    );
  }
}
