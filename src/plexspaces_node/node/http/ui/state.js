// The word and the sign of an application's or a VM's state.

import { make, mark, say } from "./dom.js";

const SIGNS = {
  Running: "●",
  Empty: "○",
  Starting: "◔",
  Restarting: "↻",
  Stopping: "◒",
  Stopped: "■",
  Gone: "■",
  Failed: "▲",
};

export function makeState() {
  return make("span", { class: "state" }, make("span", { "aria-hidden": "true" }), make("span"));
}

export function showState(element, state) {
  if (element.dataset.state === state) return;
  mark(element, "data-state", state);
  say(element.firstChild, SIGNS[state] ?? "◇");
  say(element.lastChild, state);
}

export function stateOf(state) {
  const element = makeState();
  showState(element, state);
  return element;
}
