/**
 * Puts an application's actor behind the contract `plexspaces:application/actor`.
 *
 * Imported only by the entry that `plexspaces build` writes: the bindings exist in a component
 * only. Everything that crosses to the host is made fit here, because a value the host cannot
 * take, or anything but an error record that is thrown from an export, ends the instance.
 */

import * as wasi from "wasi:cli/environment@0.2.0";

import * as keyvalue from "plexspaces:application/keyvalue@0.1.0";
import * as logging from "plexspaces:application/logging@0.1.0";
import * as messaging from "plexspaces:application/messaging@0.1.0";

import { ActorDefinition, type Actor } from "./actor.js";
import { DefinitionError, Failure, KeyValueError, describe } from "./errors.js";
import { installHost, type Host, type Level } from "./host.js";
import { log } from "./log.js";
import { reseed } from "./polyfill.js";
import { wellFormed } from "./utf8.js";

/** The functions of the contract. */
export interface Exports {
  init(saved: Uint8Array): void;
  handleMessage(sender: string, type: string, payload: Uint8Array): Uint8Array;
  snapshotState(): Uint8Array;
  shutdown(): void;
}

/** Return what exports the actor of a module; throws `DefinitionError`. */
export function bind(
  module: { readonly default?: unknown },
  file: string,
  finished: Host["finished"],
): Exports {
  const definition = module.default;
  if (!(definition instanceof ActorDefinition)) {
    throw new DefinitionError(`${file} exports no actor: write \`export default actor({ ... })\``);
  }
  return new Stage(definition as ActorDefinition<object>, finished);
}

/** The one actor of an instance, and its last good snapshot. */
class Stage implements Exports {
  readonly #definition: ActorDefinition<object>;
  readonly #finished: Host["finished"];
  #actor: Actor<object> | undefined;
  #saved: Uint8Array = new Uint8Array(0);

  constructor(definition: ActorDefinition<object>, finished: Host["finished"]) {
    this.#definition = definition;
    this.#finished = finished;
    // The engine calls exports without their object.
    this.init = this.init.bind(this);
    this.handleMessage = this.handleMessage.bind(this);
    this.snapshotState = this.snapshotState.bind(this);
    this.shutdown = this.shutdown.bind(this);
  }

  init(saved: Uint8Array): void {
    installHost(new ComponentHost(this.#finished));
    reseed();
    try {
      this.#actor = this.#definition.instantiate(saved);
    } catch (error) {
      log.error("the actor did not start:", error);
      throw fit(describe(error));
    }
    this.#saved = saved;
  }

  handleMessage(sender: string, type: string, payload: Uint8Array): Uint8Array {
    try {
      if (this.#actor === undefined) {
        throw new Failure("wrong-state", "the actor was not initialised");
      }
      return this.#actor.receive(type, payload, sender);
    } catch (error) {
      const failure = error instanceof Failure ? error : new Failure("exception", describe(error));
      const { code, message, retryable } = failure;
      throw { code: fit(code), message: fit(message), retryable: Boolean(retryable) };
    }
  }

  snapshotState(): Uint8Array {
    // The contract has no error here: when the actor fails, its last good state is returned and
    // the log says so, which costs less than the instance.
    try {
      this.#saved = this.#actor?.snapshot() ?? this.#saved;
    } catch (error) {
      log.error("the state could not be saved; the one before it is kept:", error);
    }
    return this.#saved;
  }

  shutdown(): void {
    try {
      this.#actor?.shutdown();
    } catch (error) {
      log.error("the actor failed in shutdown:", error);
    }
  }
}

/** The host behind the contract's imports. */
export class ComponentHost implements Host {
  readonly finished: Host["finished"];
  #environment: ReadonlyMap<string, string> | undefined;

  /** `finished` is for actors; in a server the engine itself waits. */
  constructor(finished: Host["finished"] = (result) => result) {
    this.finished = finished;
  }

  log(level: Level, message: string): void {
    logging.log(level, fit(message));
  }

  get(key: string): Uint8Array | undefined {
    return stored(() => keyvalue.get(fit(key)) ?? undefined);
  }

  put(key: string, value: Uint8Array): void {
    stored(() => keyvalue.put(fit(key), value));
  }

  delete(key: string): void {
    stored(() => keyvalue.delete(fit(key)));
  }

  tell(to: string, type: string, payload: Uint8Array): void {
    sent(() => messaging.tell(fit(to), fit(type), payload));
  }

  ask(to: string, type: string, payload: Uint8Array, timeoutMs: number): Uint8Array {
    return sent(() => messaging.ask(fit(to), fit(type), payload, timeoutMs));
  }

  env(name: string): string | undefined {
    this.#environment ??= new Map(wasi.getEnvironment());
    return this.#environment.get(name);
  }
}

interface ErrorRecord {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
}

function stored<T>(act: () => T): T {
  try {
    return act();
  } catch (error) {
    throw new KeyValueError(String(payloadOf(error)));
  }
}

function sent<T>(act: () => T): T {
  try {
    return act();
  } catch (error) {
    const { code, message, retryable } = payloadOf(error) as ErrorRecord;
    throw new Failure(code, message, { retryable });
  }
}

/** What the bindings put on the error they throw for the error case of a result. */
function payloadOf(error: unknown): unknown {
  if (error instanceof Error && "payload" in error) {
    return error.payload;
  }
  throw error;
}

function fit(text: unknown): string {
  return wellFormed(String(text));
}
