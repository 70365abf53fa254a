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

declare module "wasi:random/random@0.2.0" {
  export function getRandomBytes(length: number): Uint8Array;
}

declare module "wasi:cli/environment@0.2.0" {
  export function getEnvironment(): [string, string][];
}
