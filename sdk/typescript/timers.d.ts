/** What an HTTP component finds beside `web.d.ts`. */

/** Timers run while a request or its response is under way. */
declare function setTimeout<T extends unknown[]>(
  act: (...values: T) => void,
  milliseconds?: number,
  ...values: T
): number;
declare function clearTimeout(timer: number | undefined): void;
