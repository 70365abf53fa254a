/**
 * Stacks in terms of the application's own files.
 *
 * A component runs one bundled file. `plexspaces build` puts at its end where each of its lines
 * came from, as JSON that is not read before the first error.
 */

interface Sources {
  readonly files: readonly string[];
  /** For each line of the bundle, in threes: from which column on, which file, which line. */
  readonly lines: readonly (readonly number[])[];
}

const FRAME = /\(?componentize-qjs:user\.js:(\d+)(?::(\d+))?\)?/;

/** Return a stack with the application's files and lines, without the SDK's frames. */
export function readableStack(stack: string): string {
  const text = (globalThis as { __plexspaces_sources__?: string }).__plexspaces_sources__;
  if (text === undefined) {
    return stack;
  }
  const sources = JSON.parse(text) as Sources;
  return stack
    .split("\n")
    .map((line) => mapped(line, sources))
    .filter((line) => line !== undefined)
    .join("\n");
}

function mapped(line: string, sources: Sources): string | undefined {
  const frame = FRAME.exec(line);
  if (frame === null) {
    return line;
  }
  const place = placeOf(sources, Number(frame[1]), Number(frame[2] ?? 1));
  return place && line.replace(FRAME, `(${place})`);
}

function placeOf(sources: Sources, line: number, column: number): string | undefined {
  const parts = sources.lines[line - 1] ?? [];
  let place: string | undefined;
  for (let at = 0; at < parts.length; at += 3) {
    if (place !== undefined && (parts[at] ?? 0) >= column) {
      break;
    }
    place = `${sources.files[parts[at + 1] ?? 0]}:${parts[at + 2]}`;
  }
  return place;
}
