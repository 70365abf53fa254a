/**
 * What a component's engine lacks and applications expect: text encoding, randomness that differs
 * from instance to instance, and a console. Imported before the application itself.
 */

import { getRandomBytes } from "wasi:random/random@0.2.0";

import { log } from "./log.js";
import { decodeUtf8, decodeUtf8Leniently, encodeUtf8 } from "./utf8.js";

class Utf8Encoder {
  readonly encoding = "utf-8";

  encode(text = ""): Uint8Array<ArrayBuffer> {
    return encodeUtf8(String(text));
  }
}

class Utf8Decoder {
  readonly encoding = "utf-8";
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;

  constructor(label = "utf-8", options: TextDecoderOptions = {}) {
    if (!/^(utf-?8|unicode-1-1-utf-8)$/i.test(String(label).trim())) {
      throw new RangeError(`only utf-8 can be decoded here, not ${label}`);
    }
    this.fatal = options.fatal ?? false;
    this.ignoreBOM = options.ignoreBOM ?? false;
  }

  decode(input: ArrayBuffer | ArrayBufferView = new Uint8Array(0)): string {
    const view = bytesOf(input);
    const text = this.fatal ? strictly(view) : decodeUtf8Leniently(view);
    return !this.ignoreBOM && text.startsWith("\ufeff") ? text.slice(1) : text;
  }
}

function strictly(bytes: Uint8Array): string {
  try {
    return decodeUtf8(bytes);
  } catch (error) {
    throw new TypeError("the bytes are not UTF-8", { cause: error });
  }
}

function bytesOf(input: ArrayBuffer | ArrayBufferView): Uint8Array {
  return ArrayBuffer.isView(input)
    ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength)
    : new Uint8Array(input);
}

/** Random bytes fetched ahead, as one call for each number would cost more than the number. */
class Pool {
  static readonly SIZE = 1024;
  #bytes = new Uint8Array(0);
  #at = 0;

  /** What was fetched while the application was built would be the same in every instance. */
  empty(): void {
    this.#bytes = new Uint8Array(0);
    this.#at = 0;
  }

  take(count: number): Uint8Array {
    if (count > Pool.SIZE) {
      return getRandomBytes(count);
    }
    if (this.#at + count > this.#bytes.length) {
      this.#bytes = getRandomBytes(Pool.SIZE) as Uint8Array<ArrayBuffer>;
      this.#at = 0;
    }
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }
}

const pool = new Pool();
const LONGEST_REQUEST = 65536;

/** Begin the randomness of a new instance. */
export function reseed(): void {
  pool.empty();
}

function random(): number {
  const drawn = pool.take(8);
  const view = new DataView(drawn.buffer, drawn.byteOffset, 8);
  // 53 bits, as many as a number between 0 and 1 can have.
  return ((view.getUint32(0) >>> 5) * 2 ** 26 + (view.getUint32(4) >>> 6)) / 2 ** 53;
}

const randomness = {
  getRandomValues<T extends ArrayBufferView>(array: T): T {
    const into = bytesOf(array);
    if (into.length > LONGEST_REQUEST) {
      throw new RangeError(`at most ${LONGEST_REQUEST} random bytes at once, not ${into.length}`);
    }
    into.set(pool.take(into.length));
    return array;
  },

  randomUUID(): string {
    const drawn = pool.take(16).slice();
    drawn[6] = ((drawn[6] ?? 0) & 0x0f) | 0x40;
    drawn[8] = ((drawn[8] ?? 0) & 0x3f) | 0x80;
    const hex = Array.from(drawn, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  },
};

const consoleToLog = {
  trace: log.trace,
  debug: log.debug,
  log: log.info,
  info: log.info,
  warn: log.warn,
  error: log.error,
};

function define(target: object, name: string, value: unknown): void {
  Object.defineProperty(target, name, { value, writable: true, configurable: true });
}

define(Math, "random", random);
define(globalThis, "TextEncoder", Utf8Encoder);
define(globalThis, "TextDecoder", Utf8Decoder);
define(globalThis, "crypto", randomness);
define(globalThis, "console", consoleToLog);
