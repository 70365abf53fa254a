// Calls of the node's control API, with the token that this tab was given.

const TOKEN = "plexspaces-token";
// The node sends something every 15 s.
const SILENCE_MS = 40_000;

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (secret) => sessionStorage.setItem(TOKEN, secret),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** An error that the node reported, or that it could not be reached; `hint` says what to do. */
export class Problem extends Error {
  constructor({ status = 0, title = "", detail = "", code = "", hint = "" }) {
    super(detail || title || `The node answered with status ${status}`);
    Object.assign(this, { status, code, hint });
  }
}

/** The path of an application: its full name is one segment. */
export function application(name, ...rest) {
  return ["/v1/applications", encodeURIComponent(name), ...rest].join("/");
}

/** Call the node, and return the JSON it answers, or null.
 *
 * With `exact`, times since 1970 are BigInt, of which a Number would lose the last nanoseconds.
 */
export async function call(method, path, { body, query, signal, exact = false } = {}) {
  const response = await send(method, path, { body, query, signal });
  const text = await response.text();
  if (!text) return null;
  return exact ? JSON.parse(text, withExactTimes) : JSON.parse(text);
}

function withExactTimes(key, value, context) {
  return key.endsWith("_unix_ns") ? BigInt(context?.source ?? value) : value;
}

/** Call the node, and return the response once it has begun. Raises `Problem`. */
export async function send(method, path, { body, query, signal, accept = "application/json" } = {}) {
  const headers = { accept, ...authorization() };
  if (body !== undefined) headers["content-type"] = "application/json";
  const asked = query ? `${path}?${new URLSearchParams(query)}` : path;
  let response;
  try {
    response = await fetch(asked, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ detail: "The node does not answer", hint: "plexspaces start-node" });
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

export function authorization() {
  const secret = token.get();
  return secret ? { authorization: `Bearer ${secret}` } : {};
}

async function problemOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Not every refusal is a problem, for example one of a proxy.
  }
  const problem = new Problem({ ...told, status: response.status });
  if (response.status === 401) dispatchEvent(new CustomEvent("unauthenticated", { detail: problem }));
  return problem;
}

/** Yield the messages of a stream of server-sent events; raises `Problem` for an error in it. */
export async function* events(path, { query, signal } = {}) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  const either = AbortSignal.any([signal, silence.signal]);
  try {
    heard();
    const response = await send("GET", path, { query, signal: either, accept: "text/event-stream" });
    for await (const block of split(response.body, "\n\n", heard)) {
      const lines = block.split("\n");
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (!data) continue;
      if (lines.some((line) => line.startsWith("event:") && line.slice(6).trim() === "error")) {
        throw new Problem(JSON.parse(data));
      }
      yield JSON.parse(data);
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

/** Yield the objects of a response that has one in each line; raises `Problem` if the last is an error. */
export async function* lines(response) {
  for await (const line of split(response.body, "\n")) {
    if (!line) continue;
    const told = JSON.parse(line);
    if (told.error) throw new Problem(told.error);
    yield told;
  }
}

async function* split(body, end, heard = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      heard();
      if (done) break;
      // An end may be half in what was kept.
      let from = Math.max(0, kept.length - end.length);
      kept += value;
      let begin = 0;
      for (let at; (at = kept.indexOf(end, from)) !== -1; from = begin) {
        yield kept.slice(begin, at);
        begin = at + end.length;
      }
      kept = kept.slice(begin);
    }
    if (kept) yield kept;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Upload a file, and return what the node says of it; `progress(bytes)` is called as it goes. */
export function upload(file, { tenant, progress, signal }) {
  return new Promise((resolve, reject) => {
    // Of fetch nobody can tell how much has been sent.
    const request = new XMLHttpRequest();
    const query = tenant ? `?${new URLSearchParams({ tenant })}` : "";
    request.open("PUT", `/v1/artifacts/app.wasm${query}`);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.setRequestHeader("accept", "application/json");
    request.upload.addEventListener("progress", (event) => progress(event.loaded));
    request.addEventListener("load", () => {
      let told = {};
      try {
        told = JSON.parse(request.responseText);
      } catch {
        // As above.
      }
      if (request.status < 300) resolve(told);
      else reject(new Problem({ ...told, status: request.status }));
    });
    request.addEventListener("error", () => reject(new Problem({ detail: "The upload broke off: the connection to the node was closed" })));
    request.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
