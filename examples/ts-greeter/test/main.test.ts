/** Node's own test runner, without a node of PlexSpaces and without WebAssembly: `npm test`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { launch } from "plexspaces/testing";

import greeter from "../src/main.js";

test("greets by name and counts the visits", () => {
  const actor = launch(greeter);

  assert.deepEqual(actor.send("greet", { name: "Ada" }).json(), { text: "Hello, Ada!", visit: 1 });
  assert.deepEqual(actor.send("greet", { name: "Ada", language: "fr" }).json(), {
    text: "Bonjour, Ada!",
    visit: 2,
  });
  assert.deepEqual(actor.host.logged.at(-1), {
    level: "info",
    message: "greeted Ada for a client",
  });
});

test("a request of another shape is refused", () => {
  for (const request of [undefined, 3, {}, { name: "" }, { name: ["Ada"] }]) {
    assert.throws(() => launch(greeter).send("greet", request), { code: "bad-payload" });
  }
});

test("an unknown language is an error record and no visit", () => {
  const actor = launch(greeter);

  assert.throws(() => actor.send("greet", { name: "Ada", language: "xx" }), {
    code: "unknown-language",
  });
  assert.deepEqual(actor.state.visitors, []);
});

test("visitors survive a restart", () => {
  const actor = launch(greeter);
  actor.send("greet", { name: "Ada" });

  const again = actor.restart();

  assert.deepEqual(again.send("visitors").json(), [{ name: "Ada", visits: 1 }]);
  again.send("forget");
  assert.deepEqual(again.state.visitors, []);
});

test("what was taught is in the store", () => {
  const actor = launch(greeter);
  actor.send("teach", { language: "it", words: "Ciao" });
  actor.send("forget");

  assert.equal(actor.host.values.get("words/it")?.text(), "Ciao");
  assert.equal(
    actor.send("greet", { name: "Ada", language: "it" }).json<{ text: string }>().text,
    "Ciao, Ada!",
  );
});

test("another greeter is asked, and its error record passed on", () => {
  const actor = launch(greeter);
  const other = launch(greeter);
  actor.host.applications.set("other", (type, payload) => {
    return other.send(type, payload.bytes(), { sender: "greeter" }).bytes();
  });

  assert.equal(actor.send("introduce", { name: "Ada", to: "other" }).text(), "Hello, Ada!");
  assert.deepEqual(other.state.visitors, [{ name: "Ada", visits: 1 }]);
  assert.throws(() => actor.send("introduce", { name: "Ada", to: "nobody" }), {
    code: "not-found",
  });
});

test("primes are counted", () => {
  const actor = launch(greeter);

  for (const [limit, count] of [[0, 0], [1, 0], [2, 1], [10, 4], [1000, 168]]) {
    assert.equal(actor.send("primes", limit).json(), count);
  }
});
