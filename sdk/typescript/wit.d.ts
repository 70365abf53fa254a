/** The bindings that exist in a component: the imports of `wit/typescript.wit`. */

declare module "plexspaces:application/logging@0.1.0" {
  export function log(level: string, message: string): void;
}

declare module "plexspaces:application/keyvalue@0.1.0" {
  export function get(key: string): Uint8Array | null;
  export function put(key: string, value: Uint8Array): void;
  function remove(key: string): void;
  export { remove as delete };
}

declare module "plexspaces:application/messaging@0.1.0" {
  export function tell(to: string, type: string, payload: Uint8Array): void;
  export function ask(to: string, type: string, payload: Uint8Array, timeoutMs: number): Uint8Array;
}

declare module "plexspaces:application/http@0.1.0" {
  type Pairs = [string, Uint8Array][];

  export interface Request {
    method: string;
    url: string;
    headers: Pairs;
    body: Uint8Array;
    timeoutMs: number;
  }

  export interface Response {
    status: number;
    headers: Pairs;
    body: Uint8Array;
  }

  export function fetch(request: Request): Response;
}

declare module "wasi:random/random@0.2.0" {
  export function getRandomBytes(length: number): Uint8Array;
}

declare module "wasi:cli/environment@0.2.0" {
  export function getEnvironment(): [string, string][];
}

declare module "wasi:clocks/monotonic-clock@0.3.0" {
  export function waitFor(nanoseconds: number): Promise<void>;
}

declare module "wasi:http/types@0.3.0" {
  type Pairs = [string, Uint8Array][];
  type Bytes = AsyncIterable<Uint8Array>;

  export class Fields {
    static fromList(pairs: Pairs): Fields;
    copyAll(): Pairs;
  }

  export class Request {
    static consumeBody(request: Request, end: unknown): [Bytes, unknown];
    getMethod(): { tag: string; val?: string };
    getScheme(): { tag: string } | null;
    getAuthority(): string | null;
    getPathWithQuery(): string | null;
    getHeaders(): Fields;
  }

  export class Response {
    static new(headers: Fields, body: Bytes | null, end: unknown): [Response, unknown];
    setStatusCode(status: number): void;
  }
}

/** Futures of the bindings, by the types that `wasi:http` has. */
declare const wit: {
  Future: {
    from(value: unknown, type: number): { readable: unknown };
    RESULT_VOID_ERROR_CODE: number;
    RESULT_OPTION_OTHER_ERROR_CODE: number;
  };
};
