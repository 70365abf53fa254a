/**
 * A small durable store of the application's own: what `put` returned for survives the actor, its
 * machine and the node. Values are encoded as replies are. Everything here throws `KeyValueError`
 * when the store refuses.
 */

import { BadValue, KeyValueError } from "./errors.js";
import { currentHost } from "./host.js";
import { encode, fromJson } from "./payload.js";
import { decodeUtf8 } from "./utf8.js";

export interface KeyValue {
  /** Store `value`, replacing what was there: bytes and text as they are, the rest as JSON. */
  put(key: string, value: unknown): void;
  /** The value of `key`, undefined when there is none. */
  getBytes(key: string): Uint8Array | undefined;
  /** The value of `key` as text; throws when it is none. */
  getText(key: string): string | undefined;
  /** The value of `key` from JSON; throws when it is none. That it is a `T` is not checked. */
  getJson<T = unknown>(key: string): T | undefined;
  /** Forget `key`, silently when it is not there. */
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
