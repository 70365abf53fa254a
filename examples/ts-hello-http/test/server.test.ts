/** Plain Node.js, without a node and without WebAssembly: `npm test`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import server from "../src/server";

async function answered(path: string, init?: RequestInit): Promise<string> {
  return (await server.fetch(new Request(`http://hello.localhost${path}`, init))).text();
}

test("/ greets by name", async () => {
  assert.equal(await answered("/?name=Ada"), "Hello, Ada!\n");
  assert.equal(await answered("/"), "Hello, world!\n");
});

test("/echo answers with the body", async () => {
  assert.equal(await answered("/echo", { method: "POST", body: "some text" }), "some text");
});

test("anything else is not found", async () => {
  const response = await server.fetch(new Request("http://hello.localhost/other"));

  assert.equal(response.status, 404);
});
