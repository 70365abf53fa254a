/**
 * A greeter of many languages: checked JSON in, typed JSON out, state that survives, a durable
 * store, a question to another application.
 *
 * See README.md for what can be sent to it.
 */

import { Failure, actor, ask, keyvalue, log, sender } from "plexspaces";

import { type Request, readIntroduction, readLesson, readRequest } from "./requests.js";

export interface Greeting {
  readonly text: string;
  readonly visit: number;
}

export interface Visitor {
  readonly name: string;
  visits: number;
}

/** What a greeter knows without being taught. */
const BORN_WITH = new Map([
  ["de", "Guten Tag"],
  ["en", "Hello"],
  ["es", "Hola"],
  ["fr", "Bonjour"],
]);

export default actor({
  // The state is kept across restarts; everything in it is plain JSON.
  state: { visitors: [] as Visitor[] },

  handlers: {
    // What `readRequest` refuses is answered with `bad-payload`, and the handler is not called.
    greet: {
      read: readRequest,
      handle(state, request) {
        const text = `${wordsIn(request)}, ${request.name}!`;
        const visitor = visitorIn(state.visitors, request.name);
        visitor.visits += 1;
        log.info("greeted", visitor.name, "for", sender() || "a client");
        return { text, visit: visitor.visits };
      },
    },

    visitors: (state) => state.visitors,

    forget(state) {
      state.visitors = [];
    },

    // Unlike the state, what is in the store also survives `forget`, and an undeploy.
    teach: {
      read: readLesson,
      handle(_state, { language, words }) {
        keyvalue.put(`words/${language}`, words);
      },
    },

    // The other's error record, left uncaught, becomes the answer of this handler.
    introduce: {
      read: readIntroduction,
      handle: (_state, { name, to }) => ask<Greeting>(to, "greet", { name }).text,
    },

    // Real work, the same in every example: how many primes there are up to `limit`.
    primes(_state, limit: number) {
      let count = 0;
      for (let number = 2; number <= limit; number += 1) {
        count += isPrime(number) ? 1 : 0;
      }
      return count;
    },
  },
});

function visitorIn(visitors: Visitor[], name: string): Visitor {
  const known = visitors.find((visitor) => visitor.name === name);
  if (known !== undefined) {
    return known;
  }
  const visitor = { name, visits: 0 };
  visitors.push(visitor);
  return visitor;
}

function wordsIn({ language }: Request): string {
  const words = keyvalue.getText(`words/${language}`) ?? BORN_WITH.get(language);
  if (words === undefined) {
    // The caller gets this as an error record; the actor and its state live on.
    throw new Failure("unknown-language", `nobody taught me to greet in "${language}"`);
  }
  return words;
}

/** Trial division by 2 and the odd numbers, as in every example of `plexspaces run`. */
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
