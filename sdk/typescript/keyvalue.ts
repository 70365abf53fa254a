/**
 * A small durable store that belongs to the application: a value that `put` has stored survives the
 * actor, its VM and the node. Values are encoded like replies. Everything here throws
 * `KeyValueError` if the store refuses.
 */

import { BadValue, KeyValueError } from "./errors.js";
import { currentHost } from "./host.js";
import { encode, fromJson } from "./payload.js";
import { decodeUtf8 } from "./utf8.js";

export interface KeyValue {
  /** Store `value`, replacing an existing one: bytes and text as they are, the rest as JSON. */
  put(key: string, value: unknown): void;
  /** The value of `key`, or undefined. */
  getBytes(key: string): Uint8Array | undefined;
  /** The value of `key` as text; throws if it is not text. */
  getText(key: string): string | undefined;
  /** The value of `key` from JSON; throws if it is not JSON. That it is a `T` is not checked. */
  getJson<T = unknown>(key: string): T | undefined;
  /** Delete `key`, if it exists. */
  delete(key: string): void;
}

export const keyvalue: KeyValue = Object.freeze({
  put(key: string, value: unknown): void {
    currentHost().put(key, encode(value));
  },

  getBytes(key: string): Uint8Array | undefined {
    return currentHost().get(key);
  },

  getText(key: string): string | undefined {
    return read(key, decodeUtf8);
  },

  getJson<T = unknown>(key: string): T | undefined {
    return read(key, fromJson) as T | undefined;
  },

  delete(key: string): void {
    currentHost().delete(key);
  },
});

function read<T>(key: string, decode: (bytes: Uint8Array) => T): T | undefined {
  const value = currentHost().get(key);
  try {
    return value === undefined ? undefined : decode(value);
  } catch (error) {
    if (error instanceof BadValue) {
      throw new KeyValueError(`the value of "${key}": ${error.message}`);
    }
    throw error;
  }
}
