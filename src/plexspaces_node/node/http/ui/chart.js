// An application's last minutes: the time of a message with its parts stacked, percentiles, and the rate.

import { make, mark, say, scrolling } from "./dom.js";
import { clock, duration, percent, rate } from "./format.js";
import { PARTS, total } from "./spent.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

const SYNCED = "application";
const RATES = [
  { name: "messages", label: "Messages" },
  { name: "failures", label: "Failures" },
];
const LINES = [
  { name: "p50", label: "p50", means: "the median" },
  { name: "p99", label: "p99", means: "99 of 100 messages took less" },
  { name: "longest", label: "Longest", means: "the message that took longest" },
];

/** The charts, what the pointer is at, and the numbers as a table. */
export class Charts {
  constructor() {
    this.hidden = new Set();
    this.history = [];
    this.times = make("div", { class: "chart", role: "img", "aria-label": "Time of a message" });
    this.lines = make("div", { class: "chart", role: "img", "aria-label": "Percentiles of the time of a message" });
    this.rates = make("div", { class: "chart", role: "img", "aria-label": "Messages per second" });
    this.moment = make("p", { class: "quiet moment" });
    this.values = new Map();
    this.table = make("tbody");
    this.details = make(
      "details",
      { toggle: () => this.#showTable() },
      make("summary", {}, "The numbers as a table"),
      scrolling(
        "Numbers of the charts",
        make(
          "table",
          { class: "plain-table" },
          make("thead", {}, make("tr", {}, ["Until", "Messages", "Failures", ...PARTS.map((part) => part.label), "p50", "p99", "Longest"].map((title) => make("th", { scope: "col" }, title)))),
          this.table,
        ),
        "tall",
      ),
    );
    this.empty = make("p", { class: "quiet" }, "No messages in the last minutes. One can be sent with the button Send a message, or:");
    this.element = make("div", { class: "charts" }, this.empty, make("h3", {}, "Time of a message, on average"), this.#legend(PARTS), this.times, make("h3", {}, "Time of a message, percentiles, on a logarithmic scale"), this.#legend(LINES), this.lines, make("h3", {}, "Messages per second"), this.#legend(RATES), this.rates, this.moment, this.details);
    this.colours = matchMedia("(prefers-color-scheme: dark)");
  }

  open() {
    this.ending = new AbortController();
    this.colours.addEventListener("change", () => this.#build(), { signal: this.ending.signal });
    this.watcher = new ResizeObserver(() => this.#resize());
    this.watcher.observe(this.times);
    this.#build();
  }

  close() {
    this.ending?.abort();
    this.watcher?.disconnect();
    for (const plot of this.plots ?? []) plot.destroy();
  }

  /** Buttons that hide a series each, with its value where the pointer is. */
  #legend(series) {
    return make(
      "div",
      { class: "legend toggles", role: "group", "aria-label": "Shown" },
      series.map(({ name, label, means }) => {
        const value = make("span", { class: "value" });
        this.values.set(name, value);
        const button = make(
          "button",
          {
            type: "button",
            class: "plain toggle",
            title: means,
            "aria-pressed": "true",
            click: () => {
              if (!this.hidden.delete(name)) this.hidden.add(name);
              mark(button, "aria-pressed", String(!this.hidden.has(name)));
              this.#draw();
            },
          },
          make("span", { class: `swatch ${name}` }),
          label,
          value,
        );
        return button;
      }),
    );
  }

  show(history) {
    this.history = history;
    const isEmpty = history.length === 0;
    for (const child of this.element.children) child.hidden = isEmpty !== (child === this.empty);
    if (!isEmpty) {
      this.#draw();
      this.#showTable();
    }
  }

  #build() {
    for (const plot of this.plots ?? []) plot.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const partColour = (name) => colour(name === "link" ? "part-link" : name);
    const stepped = uPlot.paths.stepped({ align: -1 });
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const bottom = { ...axis, values: (plot, splits) => splits.map((at) => clock(at * 1e9).slice(0, -4)), space: 90 };
    const left = (show) => ({ ...axis, size: 72, values: (plot, splits) => splits.map((value) => (value === null ? "" : value === 0 ? "0" : show(value))) });
    // All ten lines of a decade are a grey block if there are many decades.
    const decades = { ...axis.grid, filter: (plot, splits) => splits.map((at) => (Number.isInteger(Math.log10(at)) ? at : null)) };
    const common = {
      width: Math.max(this.times.clientWidth, 200),
      legend: { show: false },
      cursor: { sync: { key: SYNCED }, y: false, drag: { x: true, y: false } },
      hooks: { setCursor: [(plot) => this.#point(plot.cursor.idx)] },
    };
    // The whole is drawn first, and what is below covers it.
    const areas = [...PARTS].reverse().map(({ name }) => ({ paths: stepped, stroke: partColour(name), fill: partColour(name), width: 0, points: { show: false } }));
    const dashes = { p50: undefined, p99: [6, 3], longest: [2, 2] };
    const lines = LINES.map(({ name }) => ({ paths: stepped, stroke: colour(name), width: 1.5, dash: dashes[name], points: { show: false } }));
    this.plots = [
      new uPlot({ ...common, height: 220, axes: [bottom, left(duration)], scales: { y: { range: (plot, low, high) => [0, (high || 1) * 1.05] } }, series: [{}, ...areas] }, null, this.times),
      new uPlot({ ...common, height: 150, axes: [bottom, { ...left(duration), grid: decades, ticks: decades }], scales: { y: { distr: 3 } }, series: [{}, ...lines] }, null, this.lines),
      new uPlot(
        {
          ...common,
          height: 120,
          axes: [bottom, { ...left(rate), space: 18 }],
          scales: { y: { range: (plot, low, high) => [0, (high || 1) * 1.1] } },
          series: [{}, { paths: stepped, stroke: colour("accent"), fill: `color-mix(in srgb, ${colour("accent")} 20%, transparent)`, width: 1.5, points: { show: false } }, { paths: stepped, stroke: colour("danger"), width: 1.5, points: { show: false } }],
        },
        null,
        this.rates,
      ),
    ];
    this.#draw();
  }

  #draw() {
    if (!this.plots || this.history.length === 0) return;
    const { columns, moments } = columnsOf(this.history);
    this.moments = moments;
    const shows = (name) => !this.hidden.has(name);
    let below = columns.at.map((at, index) => (columns.compute[index] === null ? null : 0));
    const stacks = PARTS.map(({ name }) => {
      below = below.map((sum, index) => (sum === null ? null : sum + (shows(name) ? columns[name][index] : 0)));
      return below;
    });
    const nothing = columns.at.map(() => null);
    this.plots[0].setData([columns.at, ...stacks.reverse()]);
    // A logarithm has no place for 0.
    const positive = (values) => values.map((value) => value || null);
    this.plots[1].setData([columns.at, ...LINES.map(({ name }) => (shows(name) ? positive(columns[name]) : nothing))]);
    this.plots[2].setData([columns.at, ...RATES.map(({ name }) => (shows(name) ? columns[name] : nothing))]);
    this.#point(null);
  }

  #resize() {
    const width = this.times.clientWidth;
    if (width > 0) for (const plot of this.plots ?? []) if (plot.width !== width) plot.setSize({ width, height: plot.height });
  }

  /** Say what is where the pointer is, or the last there is. */
  #point(index) {
    const moment = (index === null || index === undefined ? null : this.moments?.[index]) ?? this.history.at(-1);
    if (!moment) return;
    const { spent } = moment;
    const messages = Math.max(spent.messages, 1);
    for (const { name, field } of PARTS) say(this.values.get(name), duration(spent[field] / messages));
    say(this.values.get("p50"), duration(moment.p50_ns));
    say(this.values.get("p99"), duration(moment.p99_ns));
    say(this.values.get("longest"), duration(moment.max_ns));
    const seconds = moment.duration_ns / 1e9;
    say(this.values.get("messages"), rate(spent.messages / seconds));
    say(this.values.get("failures"), rate(spent.failures / seconds));
    const all = total(spent);
    const share = all ? `, ${percent((all - spent.compute_ns) / all)} coordination` : "";
    say(this.moment, `${clock(moment.time_unix_ns - moment.duration_ns).slice(0, -4)} to ${clock(moment.time_unix_ns).slice(0, -4)}: ${duration(all / messages)} a message${share}`);
  }

  #showTable() {
    if (!this.details.open) return;
    const rows = [...this.history].reverse().map((moment) => {
      const { spent } = moment;
      const messages = Math.max(spent.messages, 1);
      const numbers = [spent.messages, spent.failures, ...PARTS.map(({ field }) => duration(spent[field] / messages)), duration(moment.p50_ns), duration(moment.p99_ns), duration(moment.max_ns)];
      return make("tr", {}, make("th", { scope: "row" }, clock(moment.time_unix_ns).slice(0, -4)), numbers.map((number) => make("td", { class: "number" }, String(number))));
    });
    this.table.replaceChildren(...rows);
  }
}

/** The moments as uPlot takes them: a point at the end of each, one where a row of them begins, and a gap between. */
function columnsOf(history) {
  const columns = { at: [], compute: [], wait: [], queue: [], link: [], p50: [], p99: [], longest: [], messages: [], failures: [] };
  const moments = [];
  const push = (at, moment, isGap = false) => {
    const { spent } = moment;
    const messages = Math.max(spent.messages, 1);
    const seconds = moment.duration_ns / 1e9;
    const values = { p50: moment.p50_ns, p99: moment.p99_ns, longest: moment.max_ns, messages: spent.messages / seconds, failures: spent.failures / seconds };
    for (const { name, field } of PARTS) values[name] = spent[field] / messages;
    columns.at.push(at);
    for (const [name, value] of Object.entries(values)) columns[name].push(isGap ? null : value);
    moments.push(isGap ? null : moment);
  };
  let end = null;
  for (const moment of history) {
    const at = moment.time_unix_ns / 1e9;
    const begin = at - moment.duration_ns / 1e9;
    if (end === null || begin - end > moment.duration_ns / 2e9) {
      if (end !== null) push(end + 0.001, moment, true);
      push(begin, moment);
    }
    push(at, moment);
    end = at;
  }
  return { columns, moments };
}
