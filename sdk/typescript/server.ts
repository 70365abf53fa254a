/**
 * Puts the `fetch` of an application's default export behind `wasi:http/handler`.
 *
 * Imported only by the entry that `plexspaces build` writes for `src/server.ts`. The host calls it
 * once per instance, and takes the response's body as it is written.
 */

import * as clock from "wasi:clocks/monotonic-clock@0.3.0";
import * as http from "wasi:http/types@0.3.0";

import { ComponentHost } from "./component.js";
import { DefinitionError } from "./errors.js";
import { installHost } from "./host.js";
import { log } from "./log.js";
import { reseed } from "./polyfill.js";
import { ByteStream, HeaderList, IncomingRequest, OutgoingResponse, bytesOf, install } from "./web.js";

type Fetch = (request: IncomingRequest) => OutgoingResponse | Promise<OutgoingResponse>;

const NANOSECONDS = 1_000_000;
const METHODS = ["get", "head", "post", "put", "delete", "connect", "options", "trace", "patch"];

install();
define("setTimeout", startTimer);
define("clearTimeout", (timer: number | undefined) => void timers.delete(timer ?? 0));

/** Return what serves the application of a module; throws `DefinitionError`. */
export function serve(module: { readonly default?: unknown }, file: string) {
  const application = module.default as { fetch?: Fetch } | undefined;
  if (typeof application?.fetch !== "function") {
    throw new DefinitionError(
      `${file} serves nothing: write \`export default { fetch(request) { ... } }\``,
    );
  }
  const answer = application.fetch.bind(application);
  return { handle: (request: http.Request) => handle(answer, request) };
}

async function handle(answer: Fetch, incoming: http.Request): Promise<http.Response> {
  installHost(new ComponentHost());
  reseed();
  try {
    const response = await answer(received(incoming));
    if (response instanceof OutgoingResponse) {
      return sent(response);
    }
    log.error("fetch returned no Response");
  } catch (error) {
    log.error("the request failed:", error);
  }
  return sent(new OutgoingResponse("Internal Server Error\n", { status: 500 }));
}

function received(incoming: http.Request): IncomingRequest {
  const { tag, val } = incoming.getMethod();
  const method = METHODS.includes(tag) ? tag : (val ?? "get");
  const scheme = incoming.getScheme()?.tag === "HTTPS" ? "https" : "http";
  const authority = incoming.getAuthority() ?? "localhost";
  const pairs = incoming.getHeaders().copyAll();
  const headers = pairs.map(([name, value]): [string, string] => [name, latin1(value)]);
  const url = `${scheme}://${authority}${incoming.getPathWithQuery() ?? "/"}`;
  const consumed = wit.Future.from({ tag: "ok" }, wit.Future.RESULT_VOID_ERROR_CODE);
  const [body] = http.Request.consumeBody(incoming, consumed.readable);
  return new IncomingRequest(url, {
    method,
    headers,
    body: method === "get" || method === "head" ? null : ByteStream.from(body),
  });
}

function sent(response: OutgoingResponse): http.Response {
  const pairs = [...response.headers].map(([name, value]): [string, Uint8Array] => [
    name,
    Uint8Array.from(value, (letter) => letter.charCodeAt(0) & 0xff),
  ]);
  const end = wit.Future.from({ tag: "ok", val: null }, wit.Future.RESULT_OPTION_OTHER_ERROR_CODE);
  const body = response.body === null ? null : written(response.body);
  const [outgoing] = http.Response.new(http.Fields.fromList(pairs), body, end.readable);
  outgoing.setStatusCode(response.status);
  return outgoing;
}

async function* written(body: ByteStream): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of body as AsyncIterable<unknown>) {
      yield bytesOf(chunk);
    }
  } catch (error) {
    log.error("the response ended early:", error);
    throw error;
  }
}

/** A header's bytes as the web has them: one letter each. */
function latin1(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

const timers = new Set<number>();
let lastTimer = 0;

function startTimer(act: (...values: unknown[]) => void, milliseconds = 0, ...values: unknown[]) {
  const timer = ++lastTimer;
  timers.add(timer);
  void clock.waitFor(Math.max(0, Math.round(milliseconds * NANOSECONDS))).then(() => {
    if (timers.delete(timer)) {
      act(...values);
    }
  });
  return timer;
}

function define(name: string, value: unknown): void {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}
