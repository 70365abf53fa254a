/**
 * What an HTTP component finds beside `globals.d.ts`, and an actor that calls `fetch`: the part of
 * the web's interfaces that serves and sends requests.
 */

type HeadersInit = Headers | Record<string, string> | Iterable<readonly [string, string]>;

interface Headers extends Iterable<[string, string]> {
  append(name: string, value: string): void;
  delete(name: string): void;
  get(name: string): string | null;
  getSetCookie(): string[];
  has(name: string): boolean;
  set(name: string, value: string): void;
  forEach(act: (value: string, name: string, headers: Headers) => void): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
}

declare var Headers: { prototype: Headers; new (init?: HeadersInit): Headers };

interface ReadableStreamDefaultController<T> {
  enqueue(chunk: T): void;
  close(): void;
  error(reason?: unknown): void;
}

interface UnderlyingSource<T> {
  start?(controller: ReadableStreamDefaultController<T>): void | Promise<void>;
  pull?(controller: ReadableStreamDefaultController<T>): void | Promise<void>;
  cancel?(reason?: unknown): void | Promise<void>;
}

interface ReadableStreamDefaultReader<T> {
  read(): Promise<{ done: false; value: T } | { done: true; value?: undefined }>;
  cancel(reason?: unknown): Promise<void>;
  releaseLock(): void;
}

interface ReadableStream<T = Uint8Array> extends AsyncIterable<T> {
  readonly locked: boolean;
  cancel(reason?: unknown): Promise<void>;
  getReader(): ReadableStreamDefaultReader<T>;
}

declare var ReadableStream: {
  prototype: ReadableStream;
  new <T = Uint8Array>(source?: UnderlyingSource<T>): ReadableStream<T>;
  from<T>(chunks: Iterable<T> | AsyncIterable<T>): ReadableStream<T>;
};

type BodyInit = string | ArrayBuffer | ArrayBufferView | ReadableStream | URLSearchParams;

interface Body {
  readonly body: ReadableStream | null;
  readonly bodyUsed: boolean;
  arrayBuffer(): Promise<ArrayBuffer>;
  bytes(): Promise<Uint8Array>;
  json(): Promise<any>;
  text(): Promise<string>;
}

interface RequestInit {
  method?: string;
  headers?: HeadersInit;
  body?: BodyInit | null;
  /** "follow" when not given. */
  redirect?: "follow" | "error" | "manual";
  signal?: AbortSignal | null;
}

/** How long a request may take: there is no other reason to abort one. */
interface AbortSignal {
  readonly aborted: boolean;
}

declare var AbortSignal: { prototype: AbortSignal; timeout(milliseconds: number): AbortSignal };

/**
 * Send a request to a host that the deploy allows, and return its response with the whole body.
 * Throws a TypeError whose `cause` has the node's `code` and `message`.
 */
declare function fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;

interface Request extends Body {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
}

declare var Request: { prototype: Request; new (url: string | URL, init?: RequestInit): Request };

interface ResponseInit {
  status?: number;
  statusText?: string;
  headers?: HeadersInit;
}

interface Response extends Body {
  readonly headers: Headers;
  readonly ok: boolean;
  readonly status: number;
  readonly statusText: string;
  readonly url: string;
  readonly redirected: boolean;
}

declare var Response: {
  prototype: Response;
  new (body?: BodyInit | null, init?: ResponseInit): Response;
  json(value: unknown, init?: ResponseInit): Response;
  redirect(url: string | URL, status?: number): Response;
};

interface URLSearchParams extends Iterable<[string, string]> {
  append(name: string, value: string): void;
  delete(name: string): void;
  get(name: string): string | null;
  getAll(name: string): string[];
  has(name: string): boolean;
  set(name: string, value: string): void;
  toString(): string;
}

declare var URLSearchParams: {
  prototype: URLSearchParams;
  new (init?: string | Record<string, string> | Iterable<readonly [string, string]>): URLSearchParams;
};

/** An absolute address of http or https. */
interface URL {
  readonly hash: string;
  readonly host: string;
  readonly hostname: string;
  readonly href: string;
  readonly origin: string;
  readonly pathname: string;
  readonly port: string;
  readonly protocol: string;
  readonly search: string;
  readonly searchParams: URLSearchParams;
  toString(): string;
}

declare var URL: { prototype: URL; new (url: string | URL): URL };

