/** The application's log. */

import { describe } from "./errors.js";
import { currentHost, type Level } from "./host.js";
import { readableStack } from "./stack.js";

/** Write a line to the application's log: the values in words, with a space between them. */
export type Write = (...values: unknown[]) => void;

export const log: Readonly<Record<Level, Write>> = Object.freeze({
  trace: writer("trace"),
  debug: writer("debug"),
  info: writer("info"),
  warn: writer("warn"),
  error: writer("error"),
});

/** Return a value as the log shows it: text as it is, errors with their stack, the rest as JSON. */
export function inWords(value: unknown): string {
  if (typeof value === "string") {
    return value;
  }
  if (value instanceof Error) {
    return errorInWords(value, 0);
  }
  if (typeof value === "object" && value !== null) {
    try {
      return JSON.stringify(value, plain) ?? String(value);
    } catch {
      // Circular, for example: a line of the log must not fail the handler that writes it.
      return Object.prototype.toString.call(value);
    }
  }
  return typeof value === "symbol" ? value.toString() : String(value);
}

const DEEPEST_CAUSE = 5;

function errorInWords(error: Error, depth: number): string {
  const stack = readableStack(error.stack ?? "");
  // Some engines begin a stack with the error's own words.
  const words = stack.startsWith(describe(error)) ? stack : `${describe(error)}\n${stack}`;
  const whole = words.trimEnd();
  if (error.cause === undefined || depth === DEEPEST_CAUSE) {
    return whole;
  }
  const cause =
    error.cause instanceof Error ? errorInWords(error.cause, depth + 1) : describe(error.cause);
  return `${whole}\ncaused by: ${cause}`;
}

function plain(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") {
    return value.toString();
  }
  if (value instanceof Error) {
    return describe(value);
  }
  if (value instanceof Map || value instanceof Set) {
    return [...value];
  }
  return value instanceof Uint8Array ? `${value.length} bytes` : value;
}

function writer(level: Level): Write {
  return (...values) => currentHost().log(level, values.map(inWords).join(" "));
}
