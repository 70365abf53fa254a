/** Node.js's own test runner, without a PlexSpaces node and without WebAssembly: `npm test`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { launch } from "plexspaces/testing";

import greeter from "../src/main.js";

test("greets by name and counts", () => {
  const actor = launch(greeter);

  assert.deepEqual(actor.send("greet", { name: "Ada" }).json(), { text: "Hello, Ada!", count: 1 });
  assert.deepEqual(actor.send("greet", { name: "Grace" }).json(), {
    text: "Hello, Grace!",
    count: 2,
  });
});

test("no name is an error record", () => {
  assert.throws(() => launch(greeter).send("greet", { name: "" }), { code: "no-name" });
});

test("what is no person is refused", () => {
  for (const payload of [{ name: 3 }, { name: "Ada", age: 36 }]) {
    assert.throws(() => launch(greeter).send("greet", payload), { code: "bad-payload" });
  }
});

test("the count survives a restart", () => {
  const actor = launch(greeter);
  actor.send("greet", { name: "Ada" });

  assert.equal(actor.restart().send("count").json(), 1);
});
