// Deploys a file that was chosen or dropped: the upload, then the phases as they begin.

import { lines, send, upload } from "./api.js";
import { field, open, problem } from "./dialog.js";
import { announce, make, say } from "./dom.js";
import { bytes, duration, percent, visible } from "./format.js";
import { PHASES, phaseBar, phaseNumbers, phasesOf, totalOf } from "./phases.js";

const MAGIC = [0x00, 0x61, 0x73, 0x6d];

async function check(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (MAGIC.every((byte, index) => head[index] === byte)) return;
  throw Object.assign(new Error(`${file.name} is not a WebAssembly file`), { hint: "plexspaces build . -o app.wasm" });
}

/** The name of the application in a file: `My App.wasm` has `my-app`. */
function nameOf(file) {
  return file
    .replace(/\.wasm$/i, "")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 63);
}

/** Ask what to deploy, and deploy it.
 *
 * With `replaced`, an application, the file replaces it. `file` is one that was dropped.
 */
export function deploy({ session, replaced = null, file = null }) {
  const name = make("input", { required: true, autocomplete: "off", spellcheck: "false", maxlength: 130 });
  const version = make("input", { autocomplete: "off", spellcheck: "false", placeholder: "0.1.0" });
  const chosen = make("input", { type: "file", accept: ".wasm,application/wasm", required: file === null });
  const shown = make("div", { class: "dialog-progress", "aria-live": "polite" });
  const label = replaced ? "Replace" : "Deploy";
  const button = make("button", { type: "submit", class: "primary" }, label);
  const cancel = make("button", { type: "button", click: () => close() }, "Cancel");
  const ending = new AbortController();
  // As `plexspaces deploy` names it; what somebody wrote stays.
  let suggested = "";
  chosen.addEventListener("change", () => {
    if (replaced || name.value !== suggested || chosen.files.length === 0) return;
    suggested = nameOf(chosen.files[0].name);
    name.value = suggested;
  });
  if (replaced) {
    name.value = replaced.name;
    version.value = replaced.version;
  }
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    const artifact = file ?? chosen.files[0];
    const progress = new Progress(shown, artifact);
    try {
      await check(artifact);
      const told = await upload(artifact, {
        tenant: session.tenantOf(name.value),
        progress: (sent) => progress.sent(sent),
        signal: ending.signal,
      });
      const body = { name: name.value, digest: told.digest, ...(version.value && { version: version.value }), ...(replaced && { replace: true }) };
      const response = await send("POST", "/v1/applications", { body, accept: "application/x-ndjson", signal: ending.signal });
      for await (const event of lines(response)) {
        if (event.phase) progress.phase(event.phase);
        if (event.application) progress.done(event.application);
      }
      button.remove();
      say(cancel, "Close");
      cancel.focus();
    } catch (error) {
      if (error.name === "AbortError") return;
      progress.failed(error);
      button.disabled = false;
      say(button, `${label} again`);
    }
  };
  const close = open(
    replaced ? `Replace ${visible(replaced.name)}` : "Deploy an application",
    make(
      "form",
      { class: "dialog-body", submit },
      replaced
        ? make("p", {}, "Its state, keys and log carry over. Messages wait while it is replaced, and if the new version does not start, the present one is restored; keys that the new one wrote by then stay.")
        : field("Name", name, "TENANT/NAME for another tenant than your own."),
      file
        ? make("p", {}, "File: ", make("code", {}, visible(file.name)), ` (${bytes(file.size)})`)
        : field("File", chosen, "WebAssembly, as plexspaces build makes it."),
      field("Version", version),
      shown,
      make("div", { class: "dialog-buttons" }, cancel, button),
    ),
    // An upload or a deploy whose dialog is closed is given up; the node undoes it.
    { closed: () => ending.abort() },
  );
  (replaced ? (file ? button : chosen) : name).focus();
}

/** What has happened so far. */
class Progress {
  constructor(element, file) {
    this.element = element;
    this.size = file.size;
    this.began = performance.now();
    this.list = make("ol", { class: "steps" });
    this.current = null;
    this.element.replaceChildren(this.list);
    this.#begin("upload", `of ${bytes(file.size)}`);
  }

  #begin(name, text = "") {
    this.#end();
    this.text = make("span", { class: "quiet" }, text);
    this.current = make("li", { "data-state": "running" }, make("strong", {}, name), ` ${PHASES[name] ?? ""} `, this.text);
    this.list.append(this.current);
  }

  #end(state = "done") {
    if (this.current) this.current.dataset.state = state;
  }

  sent(count) {
    say(this.text, `${percent(count / Math.max(this.size, 1))} of ${bytes(this.size)}`);
  }

  phase(name) {
    this.#begin(visible(name));
  }

  done(application) {
    this.#end();
    const phases = phasesOf(application.timings);
    const link = make("a", { href: `#/app/${encodeURIComponent(application.name)}`, click: (event) => event.target.closest("dialog").close() }, visible(application.name));
    this.element.append(
      make("p", { class: "success" }, "✓ ", link, ` ${visible(application.version)} is ${application.state}, after ${duration(application.timings.total_ns)} in the node.`),
      phaseBar(phases, totalOf(phases)),
      phaseNumbers(phases),
    );
    announce(`${application.name} is ${application.state}`);
  }

  failed(error) {
    this.#end("failed");
    this.element.append(problem(error));
  }
}
