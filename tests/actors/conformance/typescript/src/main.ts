/** The conformance actor in TypeScript: tests/actors/README.md says what it answers. */

import { Failure, actor, askBytes, env, keyvalue, log, sender, tell } from "plexspaces";

interface Entry {
  readonly key: string;
  readonly value: string;
}

interface Message {
  readonly to: string;
  readonly type: string;
  readonly data?: string;
  readonly timeout_ms?: number;
}

const BLOCK_BYTES = 1024 * 1024;

export default actor({
  state: { total: 0 },
  handlers: {
    echo: { bytes: (_state, payload) => payload },
    upper: { text: (_state, text) => text.toUpperCase() },

    count(state) {
      state.total += 1;
      return state.total;
    },
    state: (state) => state.total,
    sender: () => sender(),

    put(_state, { key, value }: Entry) {
      keyvalue.put(key, value);
    },
    get: { text: (_state, key) => keyvalue.getBytes(key) },
    delete: { text: (_state, key) => keyvalue.delete(key) },

    ask: (_state, { to, type, data, timeout_ms: timeoutMs = 5000 }: Message) =>
      askBytes(to, type, data, { timeoutMs }),
    tell(_state, { to, type, data }: Message) {
      tell(to, type, data);
      return "told";
    },

    fail: {
      text(_state, text) {
        throw new Failure("asked", text, { retryable: true });
      },
    },
    throw: {
      text(_state, text) {
        throw new Error(`boom: ${text}`);
      },
    },
    log: { text: (_state, text) => log.info(text) },

    env: { text: (_state, name) => env(name) ?? "" },
    now: () => Date.now(),
    random() {
      const drawn = crypto.getRandomValues(new Uint8Array(16));
      return Array.from(drawn, (byte) => byte.toString(16).padStart(2, "0")).join("");
    },

    loop() {
      for (;;) {
        // until the deadline
      }
    },
    hoard() {
      const hoard: Uint8Array[] = [];
      for (;;) {
        hoard.push(new Uint8Array(BLOCK_BYTES).fill(1));
      }
    },
    primes(_state, limit: number) {
      let count = 0;
      for (let number = 2; number <= limit; number += 1) {
        count += isPrime(number) ? 1 : 0;
      }
      return count;
    },
  },
});

/** Trial division, as in every example. */
function isPrime(number: number): boolean {
  if (number % 2 === 0) {
    return number === 2;
  }
  for (let divisor = 3; divisor * divisor <= number; divisor += 2) {
    if (number % divisor === 0) {
      return false;
    }
  }
  return true;
}
