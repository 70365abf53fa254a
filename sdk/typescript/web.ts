/**
 * The web's Headers, Request, Response and ReadableStream, as far as a server and `fetch` need them. A body is
 * an asynchronous sequence of bytes, which is read once and only as fast as it is taken.
 */

import { Address, Query } from "./url.js";

type Pairs = Iterable<readonly [string, string]>;
type Source = AsyncIterable<unknown> | Iterable<unknown>;

const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const VALUE = /^[^\0\r\n]*$/;

export class HeaderList {
  #pairs: [string, string][] = [];

  constructor(init: HeaderList | Record<string, string> | Pairs = []) {
    const pairs = Symbol.iterator in init ? (init as Pairs) : Object.entries(init);
    for (const [name, value] of pairs) {
      this.append(name, value);
    }
  }

  append(name: string, value: string): void {
    const text = String(value).trim();
    if (!NAME.test(name) || !VALUE.test(text)) {
      throw new TypeError(`not a header: ${name}`);
    }
    this.#pairs.push([name.toLowerCase(), text]);
  }

  delete(name: string): void {
    this.#pairs = this.#pairs.filter(([one]) => one !== name.toLowerCase());
  }

  get(name: string): string | null {
    const values = this.#all(name);
    return values.length === 0 ? null : values.join(", ");
  }

  getSetCookie(): string[] {
    return this.#all("set-cookie");
  }

  has(name: string): boolean {
    return this.#all(name).length > 0;
  }

  set(name: string, value: string): void {
    this.delete(name);
    this.append(name, value);
  }

  forEach(act: (value: string, name: string, headers: HeaderList) => void): void {
    for (const [name, value] of this) {
      act(value, name, this);
    }
  }

  *entries(): IterableIterator<[string, string]> {
    for (const name of [...new Set(this.#pairs.map(([one]) => one))].sort()) {
      if (name === "set-cookie") {
        yield* this.getSetCookie().map((value): [string, string] => [name, value]);
      } else {
        yield [name, this.get(name) ?? ""];
      }
    }
  }

  *keys(): IterableIterator<string> {
    for (const [name] of this) {
      yield name;
    }
  }

  *values(): IterableIterator<string> {
    for (const [, value] of this) {
      yield value;
    }
  }

  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.entries();
  }

  #all(name: string): string[] {
    return this.#pairs.filter(([one]) => one === name.toLowerCase()).map(([, value]) => value);
  }
}

interface Underlying {
  start?(controller: Controller): void | Promise<void>;
  pull?(controller: Controller): void | Promise<void>;
  cancel?(reason?: unknown): void | Promise<void>;
}

/** What an underlying source writes to. Nothing is asked of the source while something waits. */
class Controller {
  readonly waiting: unknown[] = [];
  closed = false;
  failed: { readonly reason: unknown } | undefined;
  #wake: (() => void) | undefined;

  enqueue(chunk: unknown): void {
    if (this.closed || this.failed) {
      throw new TypeError("the stream is closed");
    }
    this.waiting.push(chunk);
    this.#wake?.();
  }

  close(): void {
    this.closed = true;
    this.#wake?.();
  }

  error(reason?: unknown): void {
    this.failed = { reason };
    this.#wake?.();
  }

  changed(): Promise<void> {
    return new Promise((done) => {
      this.#wake = done;
    });
  }
}

async function* chunksOf(source: Underlying): AsyncGenerator<unknown, void, void> {
  const controller = new Controller();
  let ended = false;
  try {
    await source.start?.(controller);
    for (;;) {
      if (controller.failed) {
        throw controller.failed.reason;
      }
      if (controller.waiting.length > 0) {
        yield controller.waiting.shift();
      } else if (controller.closed) {
        ended = true;
        return;
      } else if (source.pull) {
        const change = controller.changed();
        // A source may write later than its `pull` returns.
        await Promise.race([source.pull(controller), change]);
        if (controller.waiting.length === 0 && !controller.closed && !controller.failed) {
          await change;
        }
      } else {
        await controller.changed();
      }
    }
  } finally {
    if (!ended && !controller.failed) {
      await source.cancel?.("the reader has gone");
    }
  }
}

export class ByteStream {
  readonly #chunks: AsyncIterator<unknown>;
  #locked = false;

  constructor(source: Underlying = {}) {
    this.#chunks = chunksOf(source);
  }

  static from(chunks: Source): ByteStream {
    const iterator =
      Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]();
    return new ByteStream({
      async pull(controller) {
        const { done, value } = await iterator.next();
        if (done) {
          controller.close();
        } else {
          controller.enqueue(value);
        }
      },
      async cancel() {
        await iterator.return?.();
      },
    });
  }

  get locked(): boolean {
    return this.#locked;
  }

  async cancel(): Promise<void> {
    this.#lock();
    await this.#chunks.return?.();
  }

  getReader() {
    this.#lock();
    return {
      read: () => this.#chunks.next(),
      cancel: async () => void (await this.#chunks.return?.()),
      releaseLock: () => {
        this.#locked = false;
      },
    };
  }

  [Symbol.asyncIterator](): AsyncIterator<unknown> {
    this.#lock();
    return this.#chunks;
  }

  #lock(): void {
    if (this.#locked) {
      throw new TypeError("the stream is being read already");
    }
    this.#locked = true;
  }
}

type Content = string | ArrayBuffer | ArrayBufferView | ByteStream | Query | null | undefined;

/** A body, and what its content alone says of its type. */
function opened(content: Content): { body: ByteStream | null; type?: string } {
  if (content === null || content === undefined) {
    return { body: null };
  }
  if (content instanceof ByteStream) {
    return { body: content };
  }
  if (content instanceof Query) {
    const type = "application/x-www-form-urlencoded;charset=UTF-8";
    return { body: ByteStream.from([bytesOf(content.toString())]), type };
  }
  if (typeof content === "string") {
    return { body: ByteStream.from([bytesOf(content)]), type: "text/plain;charset=UTF-8" };
  }
  return { body: ByteStream.from([bytesOf(content)]) };
}

export function bytesOf(chunk: unknown): Uint8Array {
  if (typeof chunk === "string") {
    return new TextEncoder().encode(chunk);
  }
  if (chunk instanceof ArrayBuffer) {
    return new Uint8Array(chunk);
  }
  if (ArrayBuffer.isView(chunk)) {
    return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  }
  throw new TypeError("a body is made of bytes or text");
}

class Message {
  readonly headers: HeaderList;
  readonly body: ByteStream | null;

  constructor(content: Content, headers: HeaderList) {
    const { body, type } = opened(content);
    this.headers = headers;
    this.body = body;
    if (type !== undefined && !headers.has("content-type")) {
      headers.set("content-type", type);
    }
  }

  get bodyUsed(): boolean {
    return this.body?.locked ?? false;
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const parts: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of this.body ?? []) {
      const part = bytesOf(chunk);
      parts.push(part);
      length += part.length;
    }
    const whole = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this.text());
  }
}

interface RequestOptions {
  method?: string;
  headers?: HeaderList | Record<string, string> | Pairs;
  body?: Content;
}

export class IncomingRequest extends Message {
  readonly method: string;
  readonly url: string;

  constructor(url: string | { toString(): string }, options: RequestOptions = {}) {
    super(options.body, new HeaderList(options.headers));
    this.method = (options.method ?? "GET").toUpperCase();
    this.url = new Address(url).href;
  }
}

interface ResponseOptions {
  status?: number;
  statusText?: string;
  headers?: HeaderList | Record<string, string> | Pairs;
}

export class OutgoingResponse extends Message {
  readonly status: number;
  readonly statusText: string;
  /** Where it came from. */
  readonly url: string = "";
  readonly redirected: boolean = false;

  constructor(content?: Content, options: ResponseOptions = {}) {
    super(content, new HeaderList(options.headers));
    this.status = options.status ?? 200;
    this.statusText = options.statusText ?? "";
    if (!Number.isInteger(this.status) || this.status < 200 || this.status > 599) {
      throw new RangeError(`not the status of a response: ${this.status}`);
    }
  }

  static json(value: unknown, options: ResponseOptions = {}): OutgoingResponse {
    const headers = new HeaderList(options.headers);
    if (!headers.has("content-type")) {
      headers.set("content-type", "application/json");
    }
    return new OutgoingResponse(JSON.stringify(value), { ...options, headers });
  }

  static redirect(url: string | { toString(): string }, status = 302): OutgoingResponse {
    return new OutgoingResponse(null, { status, headers: { location: String(url) } });
  }

  get ok(): boolean {
    return this.status < 300;
  }
}

/** Make these the engine's own. */
export function install(): void {
  const named = {
    Headers: HeaderList,
    ReadableStream: ByteStream,
    Request: IncomingRequest,
    Response: OutgoingResponse,
    URL: Address,
    URLSearchParams: Query,
  };
  for (const [name, value] of Object.entries(named)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
}
