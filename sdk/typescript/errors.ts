/** The errors that an application sees. */

import elsewhere from "./elsewhere.json" with { type: "json" };

export interface FailureOptions {
  /** Whether the same message may succeed later; false when not given. */
  readonly retryable?: boolean;
}

/**
 * An error record: throw it to answer with it; `ask` and `tell` throw that of the other application.
 *
 * `code` is short and stable, for programs: `not-found`, `out-of-range`; `message` is for people.
 */
export class Failure extends Error {
  override readonly name: string = "Failure";
  readonly code: string;
  readonly retryable: boolean;

  constructor(code: string, message = "", options: FailureOptions = {}) {
    super(message);
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}

/** The store refused, for example because it is full; the message says why. */
export class KeyValueError extends Error {
  override readonly name: string = "KeyValueError";
}

/** The SDK cannot use the actor as it is written; thrown while the application is built. */
export class DefinitionError extends TypeError {
  override readonly name: string = "DefinitionError";
}

/** Bytes do not hold what they were read as; the message says why. */
export class BadValue extends Error {
  override readonly name: string = "BadValue";
}

/** Return what was thrown in one line: its name and what it says. */
export function describe(thrown: unknown): string {
  if (thrown instanceof Error) {
    const words = thrown.message ? `${thrown.name}: ${thrown.message}` : thrown.name;
    return thrown instanceof ReferenceError ? words.replace(UNDEFINED, whoHas) : words;
  }
  if (thrown === null) {
    // The engine throws it when there is not even memory for an error.
    return "null was thrown: out of memory?";
  }
  return typeof thrown === "string" ? thrown : `${String(thrown)} was thrown`;
}

const UNDEFINED = /\b(\w+) is not defined$/;

/** The engine's words on a name that is not there, with who has it: packages count on such names. */
function whoHas(words: string, name: string): string {
  const [owner] = Object.entries(elsewhere).find(([, names]) => names.includes(name)) ?? [];
  return owner === undefined ? words : `${words}: it is part of ${owner} and not here`;
}
