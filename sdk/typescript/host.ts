/**
 * The seam between an application and what runs it: the node, or a test's memory.
 *
 * One host at a time: `component.ts` puts the node's in place, `testing.ts` a test's. It is the
 * SDK's only state.
 */

export type Level = "trace" | "debug" | "info" | "warn" | "error";

/** What the contract lets an application import. */
export interface Host {
  log(level: Level, message: string): void;
  /** The value of `key`, undefined when there is none; throws `KeyValueError`. */
  get(key: string): Uint8Array | undefined;
  put(key: string, value: Uint8Array): void;
  delete(key: string): void;
  /** Put a message into the other's mailbox; throws `Failure`. */
  tell(to: string, type: string, payload: Uint8Array): void;
  /** Send a message and wait for its reply; throws `Failure`. */
  ask(to: string, type: string, payload: Uint8Array, timeoutMs: number): Uint8Array;
  /** An environment variable of the application. */
  env(name: string): string | undefined;
  /** Run what a handler's promise waits for, and return its value. */
  finished(result: unknown): unknown;
}

/** The host where there is none: at the top of a file, while the application is built. */
class NoHost implements Host {
  log(): void {
    // Whoever reads the log of an instance must not find there what its build said.
  }

  get(): undefined {
    return refuse("keyvalue");
  }

  put(): void {
    refuse("keyvalue");
  }

  delete(): void {
    refuse("keyvalue");
  }

  tell(): void {
    refuse("tell");
  }

  ask(): Uint8Array {
    return refuse("ask");
  }

  env(): undefined {
    return refuse("env");
  }

  finished(result: unknown): unknown {
    return result;
  }
}

function refuse(what: string): never {
  throw new Error(
    `there is no ${what} at the top of a file, which runs once, when the application is built: ` +
      "use it in a handler or in start",
  );
}

const seat: { host: Host } = { host: new NoHost() };

export function currentHost(): Host {
  return seat.host;
}

/** Put `host` in place and return the one it replaces. */
export function installHost(host: Host): Host {
  const replaced = seat.host;
  seat.host = host;
  return replaced;
}
