// Who uses the page, and what they may do here.

import { call, token } from "./api.js";

/** What the node says of whoever has the token of this tab. */
export class Session {
  constructor(identity) {
    this.identity = identity;
    this.scopes = new Set(identity.scopes);
  }

  static async open() {
    return new Session(await call("GET", "/v1/whoami"));
  }

  get hasToken() {
    return token.get() !== null;
  }

  #has(...scopes) {
    return this.scopes.has("admin") || scopes.some((scope) => this.scopes.has(scope));
  }

  get mayRead() {
    return this.#has("deploy", "read");
  }

  get mayDeploy() {
    return this.#has("deploy");
  }

  mayInvoke(application) {
    return this.#has("invoke") || Boolean(application.public);
  }

  /** The tenant of a full name, or null for the caller's own. */
  tenantOf(name) {
    return name.includes("/") ? name.slice(0, name.indexOf("/")) : null;
  }
}
