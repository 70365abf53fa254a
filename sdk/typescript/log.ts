/** The application's log. */

import { formatted } from "./format.js";
import { currentHost, type Level } from "./host.js";

/**
 * Write a line to the application's log: the values in words, with a space between them. A first value
 * that is text may hold `%s %d %i %f %j %o %O %c %%`, as in every console.
 */
export type Write = (...values: unknown[]) => void;

export const log: Readonly<Record<Level, Write>> = Object.freeze({
  trace: writer("trace"),
  debug: writer("debug"),
  info: writer("info"),
  warn: writer("warn"),
  error: writer("error"),
});

function writer(level: Level): Write {
  return (...values) => currentHost().log(level, formatted(values));
}
