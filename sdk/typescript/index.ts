/**
 * Write a PlexSpaces application in TypeScript.
 *
 * An application is a project whose `src/main.ts` exports an actor as its default:
 *
 * ```ts
 * import { actor, log } from "plexspaces";
 *
 * interface Addition { amount: number }
 *
 * export default actor({
 *   state: { count: 0 },                     // survives a restart
 *   handlers: {
 *     add(state, request: Addition) {        // request and reply: JSON
 *       state.count += request.amount;
 *       log.info("count is", state.count);
 *       return { count: state.count };
 *     },
 *   },
 * });
 * ```
 *
 * `plexspaces build` makes a WebAssembly component from it, `plexspaces deploy` runs it.
 *
 * If a handler throws, the caller gets an error record and the actor continues: `Failure` has its own
 * code, anything else gets the code `exception`, with the stack in the log. A payload that
 * is not JSON is answered with `bad-payload`, a message without a handler with `unknown-message`.
 *
 * Two things differ from JavaScript elsewhere. What runs at the top of a file runs once, when the
 * application is built. Nothing runs between messages, so there are no timers: a handler may be an
 * async function, and the next message waits until its promise is settled; `ask` waits and returns.
 */

export {
  Actor,
  ActorDefinition,
  actor,
  sender,
  type BytesHandler,
  type CheckedHandler,
  type Definition,
  type Handler,
  type Reply,
  type TextHandler,
} from "./actor.js";
export { DefinitionError, Failure, KeyValueError, type FailureOptions } from "./errors.js";
export { keyvalue, type KeyValue } from "./keyvalue.js";
export { log } from "./log.js";
export { ask, askBytes, askText, tell, type AskOptions } from "./messaging.js";
export { env } from "./environment.js";
