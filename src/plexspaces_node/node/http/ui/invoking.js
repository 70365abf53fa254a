// The form that sends a message to an application, and its reply with where the time went.

import { application, call } from "./api.js";
import { field, open, problem } from "./dialog.js";
import { make, say } from "./dom.js";
import { bytes, duration, plural, visible } from "./format.js";
import { barOf, Legend } from "./spent.js";

const SHOWN_CHARACTERS = 20_000;

// Kept for each application while the page is open: one mostly sends the same again.
const last = new Map();

const FORMS = {
  text: { label: "Text", toBytes: (text) => new TextEncoder().encode(text) },
  json: {
    label: "JSON",
    toBytes: (text) => {
      try {
        JSON.parse(text);
      } catch (error) {
        throw Object.assign(new Error(`The payload is not JSON: ${error.message}`), { hint: "choose Text to send it as it is" });
      }
      return new TextEncoder().encode(text);
    },
  },
  base64: {
    label: "Base64",
    toBytes: (text) => {
      try {
        return Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
      } catch {
        throw new Error("The payload is not base64");
      }
    },
  },
};

/** A long array does not fit into the arguments of one call. */
function toBase64(array) {
  let text = "";
  for (let at = 0; at < array.length; at += 32768) text += String.fromCharCode(...array.subarray(at, at + 32768));
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function invoke(name, types = []) {
  const before = last.get(name) ?? { type: types[0] ?? "", payload: "", form: "text" };
  const type = make("input", { required: true, value: before.type, autocomplete: "off", spellcheck: "false", list: "message-types" });
  const known = make("datalist", { id: "message-types" }, types.map((each) => make("option", { value: each })));
  const payload = make("textarea", { rows: 5, spellcheck: "false" });
  payload.value = before.payload;
  const form = make("select", {}, Object.entries(FORMS).map(([id, { label }]) => make("option", { value: id, selected: id === before.form }, label)));
  const reply = make("div", { class: "reply", "aria-live": "polite" });
  const button = make("button", { type: "submit", class: "primary" }, "Send");
  const ending = new AbortController();
  const submit = async (event) => {
    event.preventDefault();
    last.set(name, { type: type.value, payload: payload.value, form: form.value });
    button.disabled = true;
    say(reply, "Sending …");
    const began = performance.now();
    try {
      const body = { type: type.value, payload: toBase64(FORMS[form.value].toBytes(payload.value)) };
      const told = await call("POST", application(name, "invoke"), { body, signal: ending.signal });
      reply.replaceChildren(...replyOf(told, (performance.now() - began) * 1e6));
    } catch (error) {
      if (error.name !== "AbortError") reply.replaceChildren(problem(error));
    } finally {
      button.disabled = false;
    }
  };
  const close = open(
    `Send a message to ${visible(name)}`,
    make(
      "form",
      { class: "dialog-body", submit },
      known,
      field("Type", type),
      field("Payload", payload),
      field("Payload as", form),
      reply,
      make("div", { class: "dialog-buttons" }, make("button", { type: "button", click: () => close() }, "Close"), button),
    ),
    { closed: () => ending.abort() },
  );
  (type.value ? payload : type).focus();
}

function replyOf(told, tripNs) {
  const { failure, timings } = told;
  const parts = [];
  if (failure) {
    const how = failure.kind === "KIND_TRAPPED" ? "The application crashed" : "The application returned an error";
    parts.push(make("p", { class: "problem" }, `${how}: `, make("code", {}, visible(failure.code))), make("pre", {}, visible(failure.message)));
    if (failure.hint) parts.push(make("p", {}, "Hint: ", visible(failure.hint)));
    if (failure.output) parts.push(make("h3", {}, "What it wrote before"), shown(fromBase64(failure.output)));
  } else {
    parts.push(make("h3", {}, "Reply"), shown(fromBase64(told.payload ?? "")));
  }
  if (timings) {
    const link_ns = Math.max(0, timings.total_ns - timings.compute_ns - timings.wait_ns - timings.queue_ns);
    const spent = { ...timings, link_ns };
    const bar = barOf(spent);
    bar.classList.add("large");
    const legend = new Legend();
    legend.show(spent);
    parts.push(
      make("h3", {}, `Time in the node: ${duration(timings.total_ns)}`),
      bar,
      legend.element,
      make("p", { class: "quiet" }, `${duration(tripNs)} from this browser and back.`),
    );
  }
  return parts;
}

/** JSON with a line for each value, each as it was sent: a Number would lose digits of 9007199254740993 and of 3.0.
 *
 * Ends early with more than is shown.
 */
function indented(json) {
  const parts = [];
  let depth = 0;
  let length = 0;
  let before = null;
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    const isEnd = token === "}" || token === "]";
    if (isEnd) depth -= 1;
    const isInside = before === "{" || before === "[";
    const isNewLine = isEnd ? !isInside : isInside || before === ",";
    const space = isNewLine ? `\n${"  ".repeat(depth)}` : before === ":" ? " " : "";
    parts.push(space, token);
    length += space.length + token.length;
    if (length > SHOWN_CHARACTERS) break;
    if (token === "{" || token === "[") depth += 1;
    before = token;
  }
  return parts.join("");
}

/** The reply as text, or in hex if it is none. */
function shown(array) {
  if (array.length === 0) return make("p", { class: "quiet" }, "Empty, 0 bytes.");
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(array);
    try {
      JSON.parse(text);
      text = indented(text);
    } catch {
      // Other text is shown as it is.
    }
  } catch {
    text = [...array.subarray(0, SHOWN_CHARACTERS / 3)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
  const cut = text.length > SHOWN_CHARACTERS ? ` The first ${SHOWN_CHARACTERS} characters are shown.` : "";
  const size = array.length < 1024 ? plural(array.length, "byte") : `${bytes(array.length)} (${plural(array.length, "byte")})`;
  return make(
    "div",
    {},
    make("pre", { class: "reply-text", tabindex: "0" }, visible(text.slice(0, SHOWN_CHARACTERS))),
    make("p", { class: "quiet" }, `${size}.${cut}`),
  );
}
