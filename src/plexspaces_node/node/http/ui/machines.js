// The page of VMs: what each uses, and what it wrote to its console.

import { call, send } from "./api.js";
import { open, problem } from "./dialog.js";
import { make, mark, Rows, say, scrolling } from "./dom.js";
import { bytes, duration, plural, visible } from "./format.js";
import { makeState, showState } from "./state.js";

const REFRESH_MS = 2000;
const CONSOLE_LINES = 200;
/** More of a console is not kept in the page. */
const CONSOLE_CHARACTERS = 200_000;

export class Machines {
  constructor(activity, session) {
    this.session = session;
    this.title = "Machines";
    this.body = make("tbody");
    this.count = make("p", { class: "quiet", role: "status" });
    this.headings = ["VM", "Application", "State", "Level", "Memory, used / given", "CPU, of one", "CPUs", "Uptime", ""];
    this.table = make(
      "table",
      { class: "plain-table machines" },
      make("thead", {}, make("tr", {}, this.headings.map((title, index) => make("th", { scope: "col", class: [4, 5, 6, 7].includes(index) ? "number" : null }, title || make("span", { class: "unseen" }, "Console"))))),
      this.body,
    );
    this.empty = make("div", { class: "empty-state", hidden: true }, make("p", {}, make("strong", {}, "No VMs.")), make("p", {}, "Each application that runs has one:"), make("pre", {}, "plexspaces deploy ."));
    this.error = make("div");
    this.element = make("div", { class: "page" }, make("h1", { tabindex: "-1" }, "Machines"), this.count, this.error, scrolling("VMs", this.table, "card live"), this.empty);
    this.cpu = new Map();
    this.rows = new Rows(this.body, (vm) => this.#row(vm), (row, vm) => this.#update(row, vm));
    this.ending = new AbortController();
  }

  open() {
    this.#load();
    this.timer = setInterval(() => document.hidden || this.#load(), REFRESH_MS);
  }

  close() {
    clearInterval(this.timer);
    this.ending.abort();
  }

  async #load() {
    try {
      const { vms } = await call("GET", "/v1/vms", { signal: this.ending.signal });
      this.at = performance.now();
      this.error.replaceChildren();
      vms.sort((a, b) => (a.application || "~") < (b.application || "~") ? -1 : 1);
      this.rows.show(vms, (vm) => vm.id);
      for (const id of this.cpu.keys()) if (!this.rows.byKey.has(id)) this.cpu.delete(id);
      say(this.count, plural(vms.length, "VM"));
      this.table.parentElement.hidden = vms.length === 0;
      this.empty.hidden = vms.length > 0;
    } catch (error) {
      if (error.name !== "AbortError" && error.status) this.error.replaceChildren(problem(error));
    }
  }

  #row(vm) {
    const name = vm.application || vm.id;
    const cells = this.headings.slice(1).map((title, index) => make("td", { class: [3, 4, 5, 6].includes(index) ? "number" : null, "data-label": title }));
    const row = make("tr", {}, make("th", { scope: "row" }, visible(vm.id)), cells);
    row.shown = cells;
    row.state = makeState();
    cells[0].append(vm.application ? make("a", { href: `#/app/${encodeURIComponent(vm.application)}` }, visible(vm.application)) : make("span", { class: "quiet" }, "none"));
    cells[1].append(row.state);
    cells[7].append(make("button", { type: "button", "aria-label": `Console of ${visible(name)}`, click: () => openConsole(name) }, "Console…"));
    return row;
  }

  #update(row, vm) {
    showState(row.state, vm.state);
    const note = [vm.missing_walls.length && `without ${vm.missing_walls.join(", ")}`, vm.cpu_not_enforced].filter(Boolean).join("; ");
    say(row.shown[2], `${vm.isolation}${note ? " ▲" : ""}`);
    mark(row.shown[2], "title", note ? visible(note) : null);
    const given = vm.config?.memory_mib ? bytes(vm.config.memory_mib * 2 ** 20) : "–";
    say(row.shown[3], `${vm.rss_bytes ? bytes(vm.rss_bytes) : "–"} / ${given}`);
    say(row.shown[4], this.#cpuOf(vm));
    say(row.shown[5], vm.config ? String(vm.config.vcpus) : "–");
    say(row.shown[6], vm.uptime_ns ? duration(vm.uptime_ns) : "–");
  }

  /** Between the last two answers of the node. */
  #cpuOf(vm) {
    const before = this.cpu.get(vm.id);
    const now = { cpuNs: vm.cpu_ns, uptimeNs: vm.uptime_ns };
    this.cpu.set(vm.id, now);
    if (!before || !vm.uptime_ns || now.uptimeNs <= before.uptimeNs || now.cpuNs < before.cpuNs) return "–";
    return `${Math.round(((now.cpuNs - before.cpuNs) / (now.uptimeNs - before.uptimeNs)) * 100)} %`;
  }
}

/** Show the end of a VM's console, and follow it while the dialog is open. */
function openConsole(name) {
  const text = make("pre", { class: "console", tabindex: "0", role: "log", "aria-label": "Console", "aria-live": "off" });
  const told = make("div", {}, make("p", { class: "quiet" }, "What the guest and its agent wrote, as it comes. Sequences for terminals are left out."));
  const ending = new AbortController();
  open(`Console of ${visible(name)}`, make("div", { class: "dialog-body wide" }, told, text), { closed: () => ending.abort() });
  follow(name, text, ending.signal).catch((error) => {
    if (error.name !== "AbortError") told.append(problem(error));
  });
}

async function follow(name, element, signal) {
  const path = `/v1/vms/${encodeURIComponent(name)}/console`;
  const response = await send("GET", path, { query: { follow: true, tail: CONSOLE_LINES }, signal, accept: "application/octet-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    kept = (kept + value).slice(-CONSOLE_CHARACTERS);
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    say(element, visible(kept));
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }
  if (!kept) say(element, "Nothing was written.");
}
