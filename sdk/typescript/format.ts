/**
 * Values in words, for a line of the log: as the consoles of browsers and of Node.js show them, in
 * one line. Nothing here throws, whatever a value does when it is looked at.
 */

import { describe } from "./errors.js";
import { readableStack } from "./stack.js";

const DEEPEST = 4;
const DEEPEST_CAUSE = 5;
const MOST = 100;
const FORMAT = /%[sdifjoOc%]/g;
const NAME = /^[A-Za-z_$][\w$]*$/;

/**
 * Return a line of the log: the values with a space between them. A first value that is text may hold
 * `%s %d %i %f %j %o %O %c %%`, which take the values behind it in their order.
 */
export function formatted(values: readonly unknown[]): string {
  const [first, ...rest] = values;
  if (typeof first !== "string" || rest.length === 0) {
    return values.map(inWords).join(" ");
  }
  let taken = 0;
  const text = first.replace(FORMAT, (directive) => {
    if (directive === "%%") {
      return "%";
    }
    if (taken === rest.length) {
      return directive;
    }
    return filled(directive, rest[taken++]);
  });
  return [text, ...rest.slice(taken).map(inWords)].join(" ");
}

/** Return a value as the log shows it: text as it is, errors with their stack, objects as written. */
export function inWords(value: unknown): string {
  return typeof value === "string" ? value : shown(value, []);
}

function filled(directive: string, value: unknown): string {
  switch (directive) {
    case "%s":
      return inWords(value);
    case "%d":
      return typeof value === "bigint" ? `${value}n` : String(number(value, Number));
    case "%i":
      return typeof value === "bigint" ? `${value}n` : String(number(value, parseInt));
    case "%f":
      return String(number(value, parseFloat));
    case "%j":
      return json(value);
    case "%c":
      return ""; // a style, which a log has none of
    default:
      return shown(value, []);
  }
}

function number(value: unknown, read: (text: string) => number): number {
  // What is no number says so, and a symbol cannot even be asked.
  return typeof value === "object" || typeof value === "symbol" ? NaN : read(String(value));
}

function json(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "undefined";
  } catch {
    return shown(value, []);
  }
}

function shown(value: unknown, above: readonly object[]): string {
  try {
    switch (typeof value) {
      case "string":
        return JSON.stringify(value);
      case "bigint":
        return `${value}n`;
      case "function":
        return /^class\b/.test(String(value)) ? `[class ${value.name}]` : `[Function: ${value.name}]`;
      case "object":
        return value === null ? "null" : object(value, above);
      default:
        return Object.is(value, -0) ? "-0" : String(value);
    }
  } catch {
    // A line of the log must not fail the handler that writes it.
    return Object.prototype.toString.call(value);
  }
}

function object(value: object, above: readonly object[]): string {
  if (value instanceof Error) {
    return above.length === 0 ? errorInWords(value, 0) : `[${describe(value)}]`;
  }
  if (value instanceof Date) {
    return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  }
  if (value instanceof RegExp) {
    return String(value);
  }
  if (above.includes(value)) {
    return "[Circular]";
  }
  const name = nameOf(value);
  if (above.length === DEEPEST) {
    return Array.isArray(value) ? "[Array]" : `[${name || "Object"}]`;
  }
  const inside = [...above, value];
  if (Array.isArray(value)) {
    return listed(name === "Array" ? "" : `${name || "Array"}(${value.length})`, "[]", value, value.length, (item) =>
      shown(item, inside),
    );
  }
  if (value instanceof Map) {
    return listed(`${name}(${value.size})`, "{}", value, value.size, ([key, item]) =>
      `${shown(key, inside)} => ${shown(item, inside)}`,
    );
  }
  if (value instanceof Set) {
    return listed(`${name}(${value.size})`, "{}", value, value.size, (item) => shown(item, inside));
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    const items = value as unknown as ArrayLike<unknown> & Iterable<unknown>;
    return listed(`${name}(${items.length})`, "[]", items, items.length, String);
  }
  return fields(name === "Object" ? "" : name, value, inside);
}

function fields(name: string, value: object, inside: readonly object[]): string {
  const keys = Object.keys(value);
  return listed(name, "{}", keys, keys.length, (key) => {
    const label = NAME.test(key) ? key : JSON.stringify(key);
    return `${label}: ${shown((value as Record<string, unknown>)[key], inside)}`;
  });
}

/** A name, a bracket, at most a hundred items with commas between them, a bracket. */
function listed<T>(
  name: string,
  [open, close]: string,
  items: Iterable<T>,
  count: number,
  write: (item: T) => string,
): string {
  const parts: string[] = [];
  for (const item of items) {
    if (parts.length === MOST) {
      parts.push(`... ${count - MOST} more`);
      break;
    }
    parts.push(write(item));
  }
  const whole = parts.length === 0 ? `${open}${close}` : `${open} ${parts.join(", ")} ${close}`;
  return name ? `${name} ${whole}` : whole;
}

function nameOf(value: object): string {
  const made = (value as { constructor?: unknown }).constructor;
  return typeof made === "function" ? made.name : "";
}

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
