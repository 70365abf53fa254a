/**
 * Promises of an actor, in the place of the engine's.
 *
 * The engine continues its own after a call into the component, when nobody waits for them any more.
 * These continue within the call: `finished` runs what waits until a handler's promise is settled.
 * The build translates async functions, so that they use these.
 */

type Job = () => void;
type Outcome = { readonly state: "pending" | "fulfilled" | "rejected"; readonly value?: unknown };
type Resolve = (value?: unknown) => void;
type Executor = (resolve: Resolve, reject: Resolve) => void;
type React = ((value: unknown) => unknown) | null | undefined;

const jobs: Job[] = [];

class ActorPromise {
  #outcome: Outcome = { state: "pending" };
  #waiting: Job[] = [];

  constructor(executor: Executor) {
    let decided = false;
    const once = (act: (value: unknown) => void) => (value?: unknown) => {
      if (!decided) {
        decided = true;
        act(value);
      }
    };
    const reject = once((reason) => this.#settle("rejected", reason));
    try {
      executor(
        once((value) => this.#resolve(value)),
        reject,
      );
    } catch (error) {
      reject(error);
    }
  }

  get [Symbol.toStringTag](): string {
    return "Promise";
  }

  then(onFulfilled?: React, onRejected?: React): ActorPromise {
    return new ActorPromise((resolve, reject) => {
      const react = () => {
        const { state, value } = this.#outcome;
        const act = state === "fulfilled" ? onFulfilled : onRejected;
        if (typeof act !== "function") {
          (state === "fulfilled" ? resolve : reject)(value);
          return;
        }
        try {
          resolve(act(value));
        } catch (error) {
          reject(error);
        }
      };
      if (this.#outcome.state === "pending") {
        this.#waiting.push(react);
      } else {
        jobs.push(react);
      }
    });
  }

  catch(onRejected?: React): ActorPromise {
    return this.then(undefined, onRejected);
  }

  finally(act?: (() => unknown) | null): ActorPromise {
    if (typeof act !== "function") {
      return this.then();
    }
    return this.then(
      (value) => ActorPromise.resolve(act()).then(() => value),
      (reason) =>
        ActorPromise.resolve(act()).then(() => {
          throw reason;
        }),
    );
  }

  static resolve(value?: unknown): ActorPromise {
    return value instanceof ActorPromise ? value : new ActorPromise((resolve) => resolve(value));
  }

  static reject(reason?: unknown): ActorPromise {
    return new ActorPromise((_, reject) => reject(reason));
  }

  static withResolvers(): { promise: ActorPromise; resolve: Resolve; reject: Resolve } {
    let [resolve, reject]: Resolve[] = [];
    const promise = new ActorPromise((...given) => ([resolve, reject] = given));
    return { promise, resolve: resolve as Resolve, reject: reject as Resolve };
  }

  static all(values: Iterable<unknown>): ActorPromise {
    return collected(values, (one, put, reject) => one.then(put, reject));
  }

  static allSettled(values: Iterable<unknown>): ActorPromise {
    return collected(values, (one, put) =>
      one.then(
        (value) => put({ status: "fulfilled", value }),
        (reason) => put({ status: "rejected", reason }),
      ),
    );
  }

  static any(values: Iterable<unknown>): ActorPromise {
    const failed = collected(values, (one, put, found) => one.then(found, put));
    // What is found first ends the collection, as what fails first does in `all`.
    return failed.then(
      (reasons) => {
        throw new AggregateError(reasons as unknown[], "All promises were rejected");
      },
      (value) => value,
    );
  }

  static race(values: Iterable<unknown>): ActorPromise {
    return new ActorPromise((resolve, reject) => {
      for (const value of values) {
        ActorPromise.resolve(value).then(resolve, reject);
      }
    });
  }

  #resolve(value: unknown): void {
    if (value === this) {
      this.#settle("rejected", new TypeError("a promise cannot wait for itself"));
      return;
    }
    if ((typeof value !== "object" || value === null) && typeof value !== "function") {
      this.#settle("fulfilled", value);
      return;
    }
    try {
      const then: unknown = (value as { then?: unknown }).then;
      if (typeof then !== "function") {
        this.#settle("fulfilled", value);
        return;
      }
      // It may call both, or any of them again: only the first counts.
      const inner = new ActorPromise((resolve, reject) => {
        jobs.push(() => {
          try {
            then.call(value, resolve, reject);
          } catch (error) {
            reject(error);
          }
        });
      });
      inner.#whenSettled(() => this.#settle(inner.#outcome.state, inner.#outcome.value));
    } catch (error) {
      this.#settle("rejected", error);
    }
  }

  #whenSettled(act: Job): void {
    if (this.#outcome.state === "pending") {
      this.#waiting.push(act);
    } else {
      jobs.push(act);
    }
  }

  #settle(state: Outcome["state"], value: unknown): void {
    this.#outcome = { state, value };
    jobs.push(...this.#waiting.splice(0));
  }
}

/** A promise of what `add` puts for each of the values, in their order. */
function collected(
  values: Iterable<unknown>,
  add: (one: ActorPromise, put: Resolve, end: Resolve) => void,
): ActorPromise {
  return new ActorPromise((resolve, reject) => {
    const results: unknown[] = [];
    let missing = 1;
    const done = () => {
      missing -= 1;
      if (missing === 0) {
        resolve(results);
      }
    };
    let index = 0;
    for (const value of values) {
      const at = index;
      index += 1;
      missing += 1;
      const put = (result: unknown) => {
        results[at] = result;
        done();
      };
      add(ActorPromise.resolve(value), put, reject);
    }
    done();
  });
}

/** Run what waits, and return what a handler's promise holds; throws what it was rejected with. */
export function finished(result: unknown): unknown {
  if (!isPromise(result)) {
    run();
    return result;
  }
  let outcome: Outcome = { state: "pending" };
  ActorPromise.resolve(result).then(
    (value) => (outcome = { state: "fulfilled", value }),
    (value) => (outcome = { state: "rejected", value }),
  );
  run();
  const { state, value } = outcome as Outcome;
  if (state === "pending") {
    throw new Error("the promise that the handler returned never settles: nothing is left to run");
  }
  if (state === "rejected") {
    throw value;
  }
  return value;
}

function run(): void {
  for (let at = 0; at < jobs.length; at += 1) {
    jobs[at]?.();
    if (at === 1000) {
      jobs.splice(0, at + 1);
      at = -1;
    }
  }
  jobs.length = 0;
}

function isPromise(value: unknown): boolean {
  return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
}

Object.defineProperty(globalThis, "Promise", {
  value: ActorPromise,
  writable: true,
  configurable: true,
});
