// The phases of a start as a bar with its legend; the numbers are text.

import { make } from "./dom.js";
import { duration } from "./format.js";

/** In the order in which they run. */
export const PHASES = {
  upload: "receiving the artifact",
  compile: "compiling it to native code",
  stop: "stopping the version before",
  vm: "starting the VM",
  load: "loading the application into the VM",
  init: "the application's own start",
};

const sum = (phases) => phases.reduce((so, phase) => so + phase.duration_ns, 0);

export function totalOf(phases) {
  return sum(phases);
}

/** A bar of the phases, whose full width is `longest_ns`. */
export function phaseBar(phases, longestNs) {
  const label = phases.map((phase) => `${phase.name} ${duration(phase.duration_ns)}`).join(", ") || "no phases";
  const bar = make("span", { class: "phase-bar", role: "img", "aria-label": label, title: label });
  for (const phase of phases) {
    const part = make("span", { class: `phase ${phase.name in PHASES ? phase.name : "other"}` });
    part.style.width = `${(phase.duration_ns / Math.max(longestNs, 1)) * 100}%`;
    bar.append(part);
  }
  return bar;
}

/** The phases as words: a swatch, a name and a time for each. */
export function phaseNumbers(phases) {
  return make(
    "ul",
    { class: "legend phases" },
    phases.map((phase) =>
      make(
        "li",
        { title: PHASES[phase.name] ?? "" },
        make("span", { class: `swatch phase ${phase.name in PHASES ? phase.name : "other"}` }),
        phase.name,
        make("span", { class: "value" }, duration(phase.duration_ns)),
      ),
    ),
  );
}

/** The phases of a deploy that has just ended, as an `Application` has them. */
export function phasesOf(timings) {
  return Object.keys(PHASES)
    .map((name) => ({ name, duration_ns: timings[`${name}_ns`] ?? 0 }))
    .filter((phase) => phase.duration_ns > 0);
}
