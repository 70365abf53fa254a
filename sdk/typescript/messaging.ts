/** Messages to other applications of the node, by name. */

import { BadValue, Failure } from "./errors.js";
import { currentHost } from "./host.js";
import { encode, fromJson } from "./payload.js";
import { decodeUtf8 } from "./utf8.js";

export interface AskOptions {
  /** How long to wait for the reply; 5,000 when not given. */
  readonly timeoutMs?: number;
}

const USUAL_TIMEOUT_MS = 5000;
/** What the bindings can carry, almost 25 days. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * Send `payload` without waiting for a reply; returns when it is in the other's mailbox.
 *
 * Throws `Failure`, for example if the application does not exist or its mailbox is full.
 */
export function tell(to: string, type: string, payload?: unknown): void {
  currentHost().tell(to, type, encode(payload));
}

/**
 * Send `payload`, wait for the reply and return what its JSON says, undefined for an empty one.
 * That it is a `T` is not checked.
 *
 * Throws `Failure`: the other application's error record, the node's (`call-cycle` if the chain of
 * asks would lead back to an actor that already waits in it), or `bad-reply` if the reply is not
 * JSON. If it is not caught, it becomes the answer of the handler that asked.
 */
export function ask<T = unknown>(
  to: string,
  type: string,
  payload?: unknown,
  options: AskOptions = {},
): T {
  const reply = askBytes(to, type, payload, options);
  return (reply.length === 0 ? undefined : decoded(reply, fromJson, to, type)) as T;
}

/** As `ask`, for a reply that is text. */
export function askText(
  to: string,
  type: string,
  payload?: unknown,
  options: AskOptions = {},
): string {
  return decoded(askBytes(to, type, payload, options), decodeUtf8, to, type);
}

/** As `ask`, for the reply as it is. */
export function askBytes(
  to: string,
  type: string,
  payload?: unknown,
  options: AskOptions = {},
): Uint8Array {
  const timeoutMs = options.timeoutMs ?? USUAL_TIMEOUT_MS;
  if (!(timeoutMs > 0)) {
    throw new RangeError(`timeoutMs must be more than 0, not ${timeoutMs}`);
  }
  const whole = Math.min(Math.ceil(timeoutMs), LONGEST_TIMEOUT_MS);
  return currentHost().ask(to, type, encode(payload), whole);
}

function decoded<T>(
  reply: Uint8Array,
  decode: (bytes: Uint8Array) => T,
  to: string,
  type: string,
): T {
  try {
    return decode(reply);
  } catch (error) {
    if (error instanceof BadValue) {
      throw new Failure("bad-reply", `the reply of "${to}" to "${type}": ${error.message}`);
    }
    throw error;
  }
}
