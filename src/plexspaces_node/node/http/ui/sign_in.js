// Asks for a token where the node wants one.

import { token } from "./api.js";
import { make } from "./dom.js";
import { visible } from "./format.js";

/** Show the form in an element, and call `done` once there is a token to try. */
export function signIn(element, problem, done) {
  const field = make("input", {
    type: "password",
    id: "token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-help",
  });
  const form = make(
    "form",
    {
      class: "sign-in card",
      submit: (event) => {
        event.preventDefault();
        const secret = field.value.trim();
        // What no header can carry is no token.
        if (!/^[\x21-\x7e]+$/.test(secret)) {
          signIn(element, { message: "This is no token" }, done);
          return;
        }
        token.set(secret);
        done();
      },
    },
    make("h1", {}, "Sign in"),
    make("p", {}, "This node needs a token."),
    problem && make("p", { class: "problem", role: "alert" }, visible(problem.message)),
    make("label", { for: "token" }, "Token"),
    field,
    make("button", { type: "submit", class: "primary" }, "Sign in"),
    make("p", { class: "quiet", id: "token-help" }, "It stays in this tab, and is forgotten with it. To make one, on the node's host:"),
    make("pre", {}, "plexspaces token create --name dashboard \\\n  --scope read --scope deploy --scope invoke"),
  );
  document.title = "Sign in · PlexSpaces";
  element.replaceChildren(make("div", { class: "page narrow" }, form));
  field.focus();
}
