/** Addresses of http and https, and their queries, as far as a server reads them. */

const ADDRESS = /^(https?):\/\/([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?$/i;
const DEFAULT_PORTS: Readonly<Record<string, string>> = { "http:": "80", "https:": "443" };

export class Query {
  #pairs: [string, string][] = [];

  constructor(init: string | Record<string, string> | Iterable<readonly [string, string]> = "") {
    if (typeof init === "string") {
      const text = init.startsWith("?") ? init.slice(1) : init;
      const parts = text.split("&").filter((part) => part !== "");
      this.#pairs = parts.map((part) => {
        const at = part.indexOf("=");
        const [name, value] = at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
        return [decoded(name), decoded(value)];
      });
    } else {
      const pairs = Symbol.iterator in init ? init : Object.entries(init);
      this.#pairs = Array.from(pairs as Iterable<readonly [string, string]>, ([name, value]) => [
        String(name),
        String(value),
      ]);
    }
  }

  append(name: string, value: string): void {
    this.#pairs.push([String(name), String(value)]);
  }

  delete(name: string): void {
    this.#pairs = this.#pairs.filter(([one]) => one !== name);
  }

  get(name: string): string | null {
    return this.#pairs.find(([one]) => one === name)?.[1] ?? null;
  }

  getAll(name: string): string[] {
    return this.#pairs.filter(([one]) => one === name).map(([, value]) => value);
  }

  has(name: string): boolean {
    return this.#pairs.some(([one]) => one === name);
  }

  set(name: string, value: string): void {
    this.delete(name);
    this.append(name, value);
  }

  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.#pairs.map(([name, value]): [string, string] => [name, value])[Symbol.iterator]();
  }

  toString(): string {
    return this.#pairs.map((pair) => pair.map(encoded).join("=")).join("&");
  }
}

export class Address {
  readonly hash: string;
  readonly host: string;
  readonly hostname: string;
  readonly pathname: string;
  readonly port: string;
  readonly protocol: string;
  readonly search: string;
  readonly searchParams: Query;

  constructor(url: string | { toString(): string }) {
    const found = ADDRESS.exec(String(url).trim());
    if (found === null || found[2] === "") {
      throw new TypeError(`${String(url)} is not an absolute address of http or https`);
    }
    const [, scheme = "", authority = "", path = "", search = "", hash = ""] = found;
    this.protocol = `${scheme.toLowerCase()}:`;
    const place = authority.slice(authority.lastIndexOf("@") + 1).toLowerCase();
    const port = /:(\d*)$/.exec(place);
    this.hostname = port === null ? place : place.slice(0, port.index);
    const number = port?.[1] ?? "";
    this.port = number === DEFAULT_PORTS[this.protocol] ? "" : number;
    this.host = this.port === "" ? this.hostname : `${this.hostname}:${this.port}`;
    this.pathname = path === "" ? "/" : path;
    this.search = search === "?" ? "" : search;
    this.hash = hash === "#" ? "" : hash;
    this.searchParams = new Query(this.search);
  }

  get origin(): string {
    return `${this.protocol}//${this.host}`;
  }

  get href(): string {
    return `${this.origin}${this.pathname}${this.search}${this.hash}`;
  }

  toString(): string {
    return this.href;
  }
}

/** Return the address that a reference leads to from another address. */
export function joined(reference: string, base: string): Address {
  const { protocol, origin, pathname, search } = new Address(base);
  const text = reference.trim();
  if (/^[a-z][a-z0-9+.-]*:/i.test(text)) {
    return new Address(text);
  }
  if (text.startsWith("//")) {
    return new Address(`${protocol}${text}`);
  }
  if (text.startsWith("/")) {
    return new Address(`${origin}${text}`);
  }
  if (text === "" || text.startsWith("#")) {
    return new Address(`${origin}${pathname}${search}${text}`);
  }
  if (text.startsWith("?")) {
    return new Address(`${origin}${pathname}${text}`);
  }
  const [, path = "", rest = ""] = /^([^?#]*)(.*)$/s.exec(text) ?? [];
  const parts = pathname.split("/").slice(0, -1);
  const steps = path.split("/");
  for (const [at, step] of steps.entries()) {
    if (step === "..") {
      parts.splice(Math.max(1, parts.length - 1));
    }
    if (step !== "." && step !== "..") {
      parts.push(step);
    } else if (at === steps.length - 1) {
      parts.push("");
    }
  }
  return new Address(`${origin}${parts.join("/")}${rest}`);
}

function decoded(text: string): string {
  const spaced = text.replaceAll("+", " ");
  try {
    return decodeURIComponent(spaced);
  } catch {
    // Not UTF-8: left as it is, which is no reason to lose the rest.
    return spaced;
  }
}

function encoded(text: string): string {
  return encodeURIComponent(text).replaceAll("%20", "+");
}
