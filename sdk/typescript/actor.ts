/**
 * The actor: handlers by message type, and state that survives.
 *
 * Knows nothing of WebAssembly; `component.ts` puts an actor behind the contract.
 */

import { BadValue, DefinitionError, Failure, describe } from "./errors.js";
import { currentHost } from "./host.js";
import { log } from "./log.js";
import { encode, fromJson, toJson } from "./payload.js";
import { decodeUtf8 } from "./utf8.js";

/** What a handler replies: bytes and text travel as they are, undefined as nothing, the rest as JSON. */
type Value =
  | Uint8Array
  | string
  | number
  | boolean
  | null
  | undefined
  | void
  | (object & { readonly then?: never });

/** What a handler returns: its reply, or a promise of it. The next message waits for that too. */
export type Reply = Value | Promise<Value>;

type Handle<S, R> = (state: S, request: R) => Reply;

/** A handler whose request is checked JSON; see `Handler`. */
export interface CheckedHandler<S, R> {
  /** Get what the JSON says, undefined for an empty payload, and return the request. */
  readonly read: (value: unknown) => R;
  readonly handle: Handle<S, R>;
}

/** A handler whose request is text in UTF-8; see `Handler`. */
export interface TextHandler<S> {
  readonly text: Handle<S, string>;
}

/** A handler whose request is the payload as it is; see `Handler`. */
export interface BytesHandler<S> {
  readonly bytes: Handle<S, Uint8Array>;
}

/**
 * What answers messages of one type, in four forms:
 *
 * ```ts
 * greet(state, request: Greeting) { ... }              // JSON, or no payload when without request
 * greet: { read: readGreeting, handle(state, request) { ... } }
 * upper: { text: (state, request) => request.toUpperCase() }
 * echo: { bytes: (state, request) => request }
 * ```
 *
 * In the first form nobody checks that the JSON is a `Greeting`. In the second `read` does; what
 * it throws is answered with `bad-payload`.
 */
export type Handler<S, R> =
  | Handle<S, never>
  | CheckedHandler<S, R>
  | TextHandler<S>
  | BytesHandler<S>;

export interface Definition<S extends object, R extends object> {
  /**
   * The state of a new instance. Each begins with a copy of its own, so it must be plain JSON;
   * otherwise give a function that makes it, and `snapshot` and `restore`.
   */
  readonly state?: S | (() => S);
  /** What answers a message, by its type. */
  readonly handlers: { readonly [Type in keyof R]: Handler<S, R[Type]> };
  /** Act once per instance, after its state was restored; what it throws makes a deploy fail. */
  readonly start?: (state: S) => void;
  /** Act when the instance is stopped cleanly; this is its last call. */
  readonly shutdown?: (state: S) => void;
  /** Return the state in another form than JSON. Goes with `restore`. */
  readonly snapshot?: (state: S) => Uint8Array | string;
  /** Return the state that `snapshot` saved, perhaps in an earlier version of the application. */
  readonly restore?: (saved: Uint8Array) => S;
}

/* The requests' types are of use only where handlers are written. */
type AnyDefinition<S extends object> = Definition<S, Record<string, never>>;

/** A checked definition: what a module exports as its default to be an application. */
export class ActorDefinition<S extends object> {
  readonly #definition: AnyDefinition<S>;
  readonly #entries: ReadonlyMap<string, Entry<S>>;

  /** @internal Use `actor`. */
  constructor(definition: AnyDefinition<S>) {
    check(definition);
    this.#definition = definition;
    this.#entries = new Map(
      Object.entries(definition.handlers).map(([type, handler]) => [
        type,
        entryOf(type, handler, definition.handlers),
      ]),
    );
  }

  /** Make an instance from a snapshot, empty for none; throws when the state does not fit. */
  instantiate(saved: Uint8Array = new Uint8Array(0)): Actor<S> {
    return new Actor(this.#definition, this.#entries, saved);
  }
}

/** One instance of an application; it handles one message at a time. */
export class Actor<S extends object> {
  readonly state: S;
  readonly #definition: AnyDefinition<S>;
  readonly #entries: ReadonlyMap<string, Entry<S>>;

  /** @internal Use `ActorDefinition.instantiate`. */
  constructor(
    definition: AnyDefinition<S>,
    entries: ReadonlyMap<string, Entry<S>>,
    saved: Uint8Array,
  ) {
    this.#definition = definition;
    this.#entries = entries;
    this.state = saved.length === 0 ? fresh(definition) : restored(definition, saved);
    definition.start?.(this.state);
  }

  /**
   * Handle one message as it comes from the node, and return the reply.
   *
   * Throws `Failure` only: whatever else a handler throws is logged with its stack and becomes the
   * code `exception`.
   */
  receive(type: string, payload: Uint8Array, sender = ""): Uint8Array {
    const outer = current.sender;
    current.sender = sender;
    try {
      return encode(currentHost().finished(this.#handle(type, payload)));
    } catch (error) {
      throw failureOf(error, type);
    } finally {
      current.sender = outer;
    }
  }

  /** As `receive`, for handlers that return promises, where those need others' turns to settle. */
  async receiveAsync(type: string, payload: Uint8Array, sender = ""): Promise<Uint8Array> {
    const outer = current.sender;
    current.sender = sender;
    try {
      return encode(await this.#handle(type, payload));
    } catch (error) {
      throw failureOf(error, type);
    } finally {
      current.sender = outer;
    }
  }

  #handle(type: string, payload: Uint8Array): unknown {
    const entry = this.#entries.get(type);
    if (entry === undefined) {
      const known = [...this.#entries.keys()].sort().join(", ") || "none";
      throw new Failure("unknown-message", `"${type}" is not known here; known are: ${known}`);
    }
    return entry.handle(this.state, entry.read(payload) as never);
  }

  /** Return the state, empty for an actor without one. */
  snapshot(): Uint8Array {
    const { snapshot, state } = this.#definition;
    if (snapshot !== undefined) {
      return encode(snapshot(this.state));
    }
    return state === undefined ? new Uint8Array(0) : toJson(this.state);
  }

  shutdown(): void {
    this.#definition.shutdown?.(this.state);
  }
}

/**
 * Define an application: write `export default actor({ ... })` in `src/main.ts`.
 *
 * Throws `DefinitionError`, while the application is built, for what cannot work.
 */
export function actor<
  S extends object = Record<string, never>,
  // The types of the requests, found from the handlers.
  R extends object = Record<string, any>,
>(definition: Definition<S, R>): ActorDefinition<S> {
  return new ActorDefinition(definition as unknown as AnyDefinition<S>);
}

/** The message at hand; in a test one may be handled within another. */
const current = { sender: "" };

/** Return the name of the application that sent the current message; empty for a client. */
export function sender(): string {
  return current.sender;
}

function failureOf(error: unknown, type: string): Failure {
  if (error instanceof Failure) {
    return error;
  }
  if (error instanceof BadValue) {
    return new Failure("bad-payload", `"${type}": ${error.message}`);
  }
  log.error(`"${type}" was not handled:`, error);
  return new Failure("exception", describe(error));
}

interface Entry<S> {
  readonly read: (payload: Uint8Array) => unknown;
  readonly handle: Handle<S, never>;
}

function entryOf<S>(type: string, handler: Handler<S, never>, owner: object): Entry<S> {
  if (typeof handler === "function") {
    // A handler that declares no request takes none, and what is sent to it all the same does not
    // matter; but the request may have a default value, which does not count as declared.
    return {
      read: handler.length < 2 ? fromJsonIfAny : fromJson,
      handle: handler.bind(owner),
    };
  }
  const parts: Partial<CheckedHandler<S, never> & TextHandler<S> & BytesHandler<S>> = handler;
  if (typeof parts?.bytes === "function") {
    return { read: (payload) => payload, handle: parts.bytes.bind(handler) };
  }
  if (typeof parts?.text === "function") {
    return { read: decodeUtf8, handle: parts.text.bind(handler) };
  }
  if (typeof parts?.read === "function" && typeof parts.handle === "function") {
    return { read: checked(parts.read), handle: parts.handle.bind(handler) };
  }
  throw new DefinitionError(
    `handlers: "${type}" must be a function, { read, handle }, { text } or { bytes }`,
  );
}

function checked(read: (value: unknown) => unknown): (payload: Uint8Array) => unknown {
  return (payload) => {
    const value = payload.length === 0 ? undefined : fromJson(payload);
    try {
      return read(value);
    } catch (error) {
      throw error instanceof Failure ? error : new BadValue(reason(error));
    }
  };
}

function fromJsonIfAny(payload: Uint8Array): unknown {
  try {
    return fromJson(payload);
  } catch (error) {
    if (error instanceof BadValue) {
      return undefined;
    }
    throw error;
  }
}

function reason(error: unknown): string {
  return error instanceof Error && error.message ? error.message : describe(error);
}

function fresh<S extends object>(definition: AnyDefinition<S>): S {
  const { state } = definition;
  if (typeof state === "function") {
    return state();
  }
  return JSON.parse(JSON.stringify(state ?? {})) as S;
}

function restored<S extends object>(definition: AnyDefinition<S>, saved: Uint8Array): S {
  if (definition.restore !== undefined) {
    return definition.restore(saved);
  }
  let values: unknown;
  try {
    values = fromJson(saved);
  } catch (error) {
    throw new Error(`the saved state does not fit: ${describe(error)}`);
  }
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw new Error("the saved state does not fit: it is no object");
  }
  // What an earlier version did not know begins as in a new instance.
  return Object.assign(fresh(definition), values);
}

function check<S extends object>(definition: AnyDefinition<S>): void {
  const { state, handlers, snapshot, restore } = definition;
  if (typeof handlers !== "object" || handlers === null) {
    throw new DefinitionError("an actor needs handlers: actor({ handlers: { ... } })");
  }
  if ((snapshot === undefined) !== (restore === undefined)) {
    throw new DefinitionError("snapshot and restore go together: give both or none");
  }
  if (state !== undefined && typeof state !== "function") {
    if (typeof state !== "object" || state === null || Array.isArray(state)) {
      throw new DefinitionError("state must be an object: state: { count: 0 }");
    }
    checkPlain(state, "state");
  }
}

function checkPlain(value: unknown, where: string): void {
  if (typeof value === "object" && value !== null) {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (!Array.isArray(value) && prototype !== Object.prototype && prototype !== null) {
      refuseState(where, value.constructor.name);
    }
    for (const [key, part] of Object.entries(value)) {
      checkPlain(part, `${where}.${key}`);
    }
  } else if (["function", "symbol", "bigint"].includes(typeof value)) {
    refuseState(where, typeof value);
  }
}

function refuseState(where: string, kind: string): never {
  throw new DefinitionError(
    `${where} is a ${kind}, which JSON cannot keep: write state as a function, and give ` +
      "snapshot and restore",
  );
}
