/**
 * The web's `fetch`: the node sends the request, and returns the response with its whole body.
 *
 * Imported only by the entry that `plexspaces build` writes, if the application's code has the word.
 */

import * as http from "plexspaces:application/http@0.1.0";

import { Failure } from "./errors.js";
import { IncomingRequest, OutgoingResponse, install } from "./web.js";
import { joined } from "./url.js";
import { wellFormed } from "./utf8.js";

type Options = NonNullable<ConstructorParameters<typeof IncomingRequest>[1]>;
type Redirect = "follow" | "error" | "manual";

interface FetchOptions extends Options {
  redirect?: Redirect;
  signal?: Timeout | null;
}

interface Wanted {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingRequest["headers"];
  readonly body: Uint8Array;
}

const MOST_REDIRECTS = 20;
const REDIRECTS = [301, 302, 303, 307, 308];
const WITHOUT_BODY = [204, 205, 304];
/** What the bindings can carry, almost 25 days. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;
const CREDENTIALS = /^https?:\/\/[^/?#]*@/i;

/** How long a request may take: the one kind of signal there is. */
class Timeout {
  readonly #end: number;

  constructor(milliseconds: number) {
    this.#end = performance.now() + milliseconds;
  }

  static timeout(milliseconds: number): Timeout {
    return new Timeout(milliseconds);
  }

  get aborted(): boolean {
    return this.left === 0;
  }

  /** Milliseconds. */
  get left(): number {
    return Math.max(0, Math.ceil(this.#end - performance.now()));
  }
}

async function fetch(
  input: string | { toString(): string } | IncomingRequest,
  options: FetchOptions = {},
): Promise<OutgoingResponse> {
  const base = input instanceof IncomingRequest ? input : undefined;
  const url = base?.url ?? String(input);
  if (CREDENTIALS.test(url)) {
    throw new TypeError("fetch failed: the URL has a user name in it");
  }
  const content = "body" in options ? options.body : base?.body;
  const request = new IncomingRequest(url, {
    method: options.method ?? base?.method ?? "GET",
    headers: options.headers ?? base?.headers ?? [],
    body: content ?? null,
  });
  if (request.body !== null && ["GET", "HEAD"].includes(request.method)) {
    throw new TypeError(`a ${request.method} request has no body`);
  }
  const { method, headers } = request;
  const first = { method, url: request.url, headers, body: await request.bytes() };
  return followed(first, options.redirect ?? "follow", options.signal ?? undefined);
}

function followed(first: Wanted, redirect: Redirect, signal?: Timeout): OutgoingResponse {
  let wanted = first;
  for (let count = 0; count <= MOST_REDIRECTS; count += 1) {
    const response = sent(wanted, signal);
    const target = REDIRECTS.includes(response.status) ? response.headers.get("location") : null;
    if (target === null || redirect === "manual") {
      return Object.assign(response, { url: wanted.url, redirected: count > 0 });
    }
    if (redirect === "error") {
      throw new TypeError(`fetch failed: ${wanted.url} redirects to ${target}`);
    }
    wanted = redirected(wanted, response.status, target);
  }
  throw new TypeError(`fetch failed: more than ${MOST_REDIRECTS} redirects`);
}

/** The request that a redirect leads to, as the standard of fetch has it. */
function redirected(from: Wanted, status: number, target: string): Wanted {
  const to = joined(target, from.url);
  const { headers } = new IncomingRequest(to.href, { headers: from.headers });
  if (!from.url.startsWith(`${to.origin}/`)) {
    // They are meant for the first host only.
    ["authorization", "cookie", "host"].forEach((name) => headers.delete(name));
  }
  const asGet =
    (status === 303 && from.method !== "HEAD") ||
    ((status === 301 || status === 302) && from.method === "POST");
  if (!asGet) {
    return { ...from, url: to.href, headers };
  }
  [...headers.keys()]
    .filter((name) => name.startsWith("content-"))
    .forEach((name) => headers.delete(name));
  return { method: "GET", url: to.href, headers, body: new Uint8Array(0) };
}

function sent({ method, url, headers, body }: Wanted, signal?: Timeout): OutgoingResponse {
  if (signal?.aborted) {
    throw timedOut(undefined);
  }
  try {
    const response = http.fetch({
      method: wellFormed(method),
      url: ascii(url.replace(/#.*/, "")),
      headers: [...headers].map(([name, value]): [string, Uint8Array] => [name, octets(value)]),
      body,
      timeoutMs: Math.min(signal?.left ?? 0, LONGEST_TIMEOUT_MS),
    });
    return received(response);
  } catch (error) {
    const failure = failureIn(error);
    if (signal?.aborted && failure.code === "http-response-timeout") {
      throw timedOut(failure);
    }
    throw new TypeError(`fetch failed: ${failure.message}`, { cause: failure });
  }
}

function received({ status, headers, body }: http.Response): OutgoingResponse {
  const pairs = headers.map(([name, value]): [string, string] => [name, letters(value)]);
  const content = WITHOUT_BODY.includes(status) ? null : body;
  return new OutgoingResponse(content, { status, headers: pairs });
}

/** The error record that the bindings put on what they throw. */
function failureIn(error: unknown): Failure {
  if (error instanceof Error && "payload" in error) {
    const { code, message, retryable } = error.payload as Failure;
    return new Failure(code, message, { retryable });
  }
  throw error;
}

function timedOut(cause: unknown): Error {
  const error = new Error("the request took longer than its signal allows", { cause });
  error.name = "TimeoutError";
  return error;
}

/** An address as it is sent: what is not ASCII in percents. */
function ascii(url: string): string {
  return encodeURI(wellFormed(url)).replaceAll("%25", "%");
}

/** A header's letters as bytes, one each. */
function octets(value: string): Uint8Array {
  return Uint8Array.from(value, (letter) => letter.charCodeAt(0) & 0xff);
}

function letters(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

install();
for (const [name, value] of Object.entries({ fetch, AbortSignal: Timeout })) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}
