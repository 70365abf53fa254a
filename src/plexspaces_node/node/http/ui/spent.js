// How the time of messages was spent, and the bar that shows it.
//
// Coordination is all time of a message that is not compute, as in `plexspaces run`: waiting in host
// calls, in the queue, and the link with the node.

import { make, mark, say } from "./dom.js";
import { duration, percent } from "./format.js";

/** The parts of a message's time, in the order in which bars and charts have them. */
export const PARTS = [
  { field: "compute_ns", name: "compute", label: "Compute", means: "in the application's own code" },
  { field: "wait_ns", name: "wait", label: "Host waits", means: "waiting in host calls: keys and values, asks, HTTP" },
  { field: "queue_ns", name: "queue", label: "Queue", means: "waiting for the start and in the mailbox" },
  { field: "link_ns", name: "link", label: "Link and node", means: "the link, the node and the agent" },
];

export function coordination(spent) {
  return spent.wait_ns + spent.queue_ns + spent.link_ns;
}

export function total(spent) {
  return spent.compute_ns + coordination(spent);
}

/** The part that coordination is mostly. */
export function mostly(spent) {
  return PARTS.slice(1).reduce((most, part) => (spent[part.field] > spent[most.field] ? part : most));
}

/** What a bar shows, in words. */
export function words(spent) {
  const all = total(spent);
  if (all === 0) return "no messages";
  const parts = PARTS.map((part) => `${part.label.toLowerCase()} ${duration(spent[part.field])} (${percent(spent[part.field] / all)})`);
  return `coordination ${percent(coordination(spent) / all)} of the time: ${parts.join(", ")}`;
}

/** Make a bar; `fill` shows something in it. */
export function makeBar() {
  return make("span", { class: "bar empty", role: "img", "aria-label": "no messages" });
}

/** Show how time was spent as parts of the whole bar. */
export function fill(bar, spent, label = words(spent)) {
  if (bar.getAttribute("aria-label") === label) return;
  const all = total(spent);
  bar.setAttribute("aria-label", label);
  bar.title = label;
  bar.classList.toggle("empty", all === 0);
  let end = 0;
  for (const part of PARTS) {
    end += all === 0 ? 0 : (spent[part.field] / all) * 100;
    bar.style.setProperty(`--${part.name}-end`, `${end.toFixed(2)}%`);
  }
}

export function barOf(spent) {
  const bar = makeBar();
  fill(bar, spent);
  return bar;
}

/** The colours in words; with times, also how much of each. */
export class Legend {
  constructor() {
    this.values = PARTS.map(() => make("span", { class: "value" }));
    this.element = make(
      "ul",
      { class: "legend" },
      PARTS.map((part, index) =>
        make("li", { title: part.means }, make("span", { class: `swatch ${part.name}` }), part.label, this.values[index]),
      ),
    );
  }

  show(spent) {
    const all = total(spent);
    PARTS.forEach((part, index) => {
      const ns = spent[part.field];
      say(this.values[index], all === 0 ? "–" : `${duration(ns)} · ${percent(ns / all)}`);
    });
    mark(this.element, "data-empty", all === 0);
  }
}

export function legend() {
  const made = new Legend();
  made.values.forEach((value) => value.remove());
  return made.element;
}
