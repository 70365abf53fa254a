/** __NAME__: an application for a PlexSpaces node. README.md says what can be sent to it. */

import { Failure, actor, log } from "plexspaces";

/** What `greet` takes. */
export interface Person {
  readonly name: string;
}

/** What `greet` answers. */
export interface Greeting {
  readonly text: string;
  readonly count: number;
}

export default actor({
  // The state is kept across restarts; everything in it is plain JSON.
  state: { count: 0 },

  handlers: {
    greet: {
      read: readPerson,
      handle(state, person): Greeting {
        if (!person.name) {
          // The caller gets this as an error record; the actor and its state live on.
          throw new Failure("no-name", "the name is empty");
        }
        state.count += 1;
        log.info("greeting", person.name, "number", state.count);
        return { text: `Hello, ${person.name}!`, count: state.count };
      },
    },

    count: (state) => state.count,
  },
});

/** Check that what came is a person; what is thrown here is answered with `bad-payload`. */
function readPerson(value: unknown): Person {
  const { name, ...others } = (value ?? {}) as Partial<Person>;
  if (typeof name !== "string") {
    throw new TypeError("name must be text");
  }
  const [other] = Object.keys(others);
  if (other !== undefined) {
    throw new TypeError(`unknown field "${other}"`);
  }
  return { name };
}
