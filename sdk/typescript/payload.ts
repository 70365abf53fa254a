/**
 * Values to bytes and back, as replies and payloads travel.
 *
 * | value | bytes |
 * |---|---|
 * | `Uint8Array`, `ArrayBuffer` | as they are |
 * | `string` | UTF-8 |
 * | `undefined` | none |
 * | anything else | JSON |
 */

import { BadValue } from "./errors.js";
import { decodeUtf8, encodeUtf8 } from "./utf8.js";

/**
 * How deep JSON may be nested. The engine reads it by recursion, and from some 5,000 levels on
 * that would end the instance instead of throwing.
 */
export const MAX_DEPTH = 1000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPENING = new Set([0x5b, 0x7b]);
const CLOSING = new Set([0x5d, 0x7d]);

/** Return the bytes of `value`; throws TypeError for what JSON cannot say. */
export function encode(value: unknown): Uint8Array {
  if (value === undefined) {
    return new Uint8Array(0);
  }
  if (typeof value === "string") {
    return encodeUtf8(value);
  }
  if (value instanceof Uint8Array) {
    return value;
  }
  if (value instanceof ArrayBuffer) {
    return new Uint8Array(value);
  }
  return toJson(value);
}

/** Return `value` as compact JSON; throws TypeError for what JSON cannot say. */
export function toJson(value: unknown): Uint8Array {
  if (value instanceof Promise) {
    throw new TypeError("a promise cannot be sent: await it first");
  }
  if (ArrayBuffer.isView(value)) {
    throw new TypeError("only a Uint8Array can be sent as bytes");
  }
  const json = JSON.stringify(value) as string | undefined;
  if (json === undefined) {
    throw new TypeError(`a ${typeof value} cannot be written as JSON`);
  }
  return encodeUtf8(json);
}

/** Return the value that JSON in UTF-8 says; throws `BadValue`, also for deep nesting. */
export function fromJson(payload: Uint8Array): unknown {
  if (payload.length === 0) {
    throw new BadValue("the payload is empty; JSON was expected");
  }
  const text = decodeUtf8(payload);
  if (tooDeep(text)) {
    throw new BadValue(`JSON nested deeper than ${MAX_DEPTH} levels`);
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new BadValue(`not JSON: ${error.message}`);
    }
    throw error;
  }
}

function tooDeep(text: string): boolean {
  if (opensAtMost(text, MAX_DEPTH)) {
    return false;
  }
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charCodeAt(at);
    if (char === QUOTE) {
      at = endOfString(text, at);
    } else if (OPENING.has(char)) {
      depth += 1;
      if (depth > MAX_DEPTH) {
        return true;
      }
    } else if (CLOSING.has(char)) {
      depth -= 1;
    }
  }
  return false;
}

/** Whether so few brackets are opened that the slow look at every character is not needed. */
function opensAtMost(text: string, most: number): boolean {
  let left = most;
  for (const bracket of ["[", "{"]) {
    let at = text.indexOf(bracket);
    while (at >= 0 && left >= 0) {
      left -= 1;
      at = text.indexOf(bracket, at + 1);
    }
  }
  return left >= 0;
}

function endOfString(text: string, start: number): number {
  let end = start;
  for (;;) {
    end = text.indexOf('"', end + 1);
    if (end < 0) {
      return text.length;
    }
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === BACKSLASH) {
      backslashes += 1;
    }
    if (backslashes % 2 === 0) {
      return end;
    }
  }
}
