/**
 * Test an application without a node and without WebAssembly, in Node.js:
 *
 * ```ts
 * import { launch } from "plexspaces/testing";
 * import counter from "../src/main.js";
 *
 * test("it remembers", () => {
 *   const actor = launch(counter);
 *   actor.host.applications.set("greeter", () => "hello");          // who answers an ask
 *   assert.deepEqual(actor.send("add", { amount: 2 }).json(), { count: 2 });
 *   assert.equal(actor.restart().state.count, 2);
 *   assert.deepEqual(actor.host.told, [...]);                       // what was told to others
 * });
 * ```
 */

import type { Actor, ActorDefinition } from "./actor.js";
import { Failure } from "./errors.js";
import { installHost, type Host, type Level } from "./host.js";
import { encode, fromJson } from "./payload.js";
import { decodeUtf8 } from "./utf8.js";

/** A message as another application got it. */
export interface Told {
  readonly to: string;
  readonly type: string;
  readonly payload: Content;
}

/** Who answers an ask: returns a reply as a handler does, or throws a `Failure`. */
export type Answerer = (type: string, payload: Content) => unknown;

/** The stand-in for a node. */
export class MemoryHost implements Host {
  /** What `keyvalue` holds. */
  readonly values = new Map<string, Content>();
  /** What `tell` sent, oldest first. */
  readonly told: Told[] = [];
  /** Who answers an `ask`, by name. */
  readonly applications = new Map<string, Answerer>();
  /** What was logged, oldest first. */
  readonly logged: { readonly level: Level; readonly message: string }[] = [];
  /** The application's environment. */
  readonly environment = new Map<string, string>();

  log(level: Level, message: string): void {
    this.logged.push({ level, message });
  }

  get(key: string): Uint8Array | undefined {
    return this.values.get(key)?.bytes();
  }

  /** Also for a test to begin with: any value, encoded as `keyvalue.put` does. */
  put(key: string, value: unknown): void {
    this.values.set(key, new Content(encode(value)));
  }

  delete(key: string): void {
    this.values.delete(key);
  }

  tell(to: string, type: string, payload: Uint8Array): void {
    this.told.push({ to, type, payload: new Content(payload) });
  }

  ask(to: string, type: string, payload: Uint8Array): Uint8Array {
    const answer = this.applications.get(to);
    if (answer === undefined) {
      throw new Failure("not-found", `no application named "${to}"`);
    }
    return encode(answer(type, new Content(payload))).slice();
  }

  env(name: string): string | undefined {
    return this.environment.get(name);
  }

  finished(result: unknown): unknown {
    if (result instanceof Promise) {
      throw new TypeError("the handler returns a promise: await sendAsync(...) instead of send(...)");
    }
    return result;
  }
}

/** What travels: read it as what you expect it to be. */
export class Content {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes.slice();
  }

  bytes(): Uint8Array {
    return this.#bytes.slice();
  }

  text(): string {
    return decodeUtf8(this.#bytes);
  }

  json<T = unknown>(): T {
    return fromJson(this.#bytes) as T;
  }
}

export interface LaunchOptions {
  /** The host to run on; a new one when not given. */
  readonly host?: MemoryHost;
  /** A snapshot to begin with. */
  readonly saved?: Uint8Array;
}

/** An instance that runs in the test. */
export class Launched<S extends object> {
  readonly host: MemoryHost;
  readonly #definition: ActorDefinition<S>;
  readonly #actor: Actor<S>;

  /** @internal Use `launch`. */
  constructor(definition: ActorDefinition<S>, options: LaunchOptions) {
    this.host = options.host ?? new MemoryHost();
    this.#definition = definition;
    this.#actor = this.#hosted(() => definition.instantiate(options.saved));
  }

  get state(): S {
    return this.#actor.state;
  }

  /** Send a message, with `payload` encoded as `ask` does; throws `Failure`. */
  send(type: string, payload?: unknown, options: { readonly sender?: string } = {}): Content {
    const sent = encode(payload).slice();
    return new Content(this.#hosted(() => this.#actor.receive(type, sent, options.sender)));
  }

  /** As `send`, for a handler that returns a promise. One at a time. */
  async sendAsync(
    type: string,
    payload?: unknown,
    options: { readonly sender?: string } = {},
  ): Promise<Content> {
    const sent = encode(payload).slice();
    const replaced = installHost(this.host);
    try {
      return new Content(await this.#actor.receiveAsync(type, sent, options.sender));
    } finally {
      installHost(replaced);
    }
  }

  /** Return the state as it is saved. */
  snapshot(): Uint8Array {
    return this.#hosted(() => this.#actor.snapshot());
  }

  /** Return a new instance on the same host with this one's state, as after a restart. */
  restart(): Launched<S> {
    return new Launched(this.#definition, { host: this.host, saved: this.snapshot() });
  }

  /** Stop the instance cleanly. */
  stop(): void {
    this.#hosted(() => this.#actor.shutdown());
  }

  #hosted<T>(act: () => T): T {
    const replaced = installHost(this.host);
    try {
      return act();
    } finally {
      installHost(replaced);
    }
  }
}

/** Make an instance of an application in the test. */
export function launch<S extends object>(
  definition: ActorDefinition<S>,
  options: LaunchOptions = {},
): Launched<S> {
  return new Launched(definition, options);
}
