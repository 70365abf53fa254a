/** What the greeter takes, and the checks that what came is that. */

export interface Request {
  readonly name: string;
  readonly language: string;
}

export interface Lesson {
  readonly language: string;
  readonly words: string;
}

export interface Introduction {
  readonly name: string;
  readonly to: string;
}

export function readRequest(value: unknown): Request {
  return { name: textOf(value, "name"), language: textOf(value, "language", "en") };
}

export function readLesson(value: unknown): Lesson {
  return { language: textOf(value, "language"), words: textOf(value, "words") };
}

export function readIntroduction(value: unknown): Introduction {
  return { name: textOf(value, "name"), to: textOf(value, "to") };
}

function textOf(value: unknown, key: string, otherwise?: string): string {
  if (typeof value !== "object" || value === null) {
    throw new TypeError("an object was expected");
  }
  const part: unknown = Object.entries(value).find(([name]) => name === key)?.[1] ?? otherwise;
  if (typeof part !== "string" || part === "") {
    throw new TypeError(`${key} must be text, and not empty`);
  }
  return part;
}
