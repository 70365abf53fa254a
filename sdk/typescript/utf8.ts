/**
 * UTF-8 to strings and back.
 *
 * The engine in a component has no TextEncoder. A loop over every character takes 170 ms for
 * 1 MiB in it; going through base64, which the engine does itself, takes 4 to 40 ms.
 */

import { BadValue } from "./errors.js";

interface Base64Bytes {
  toBase64(): string;
}
interface Base64Constructor {
  fromBase64(text: string): Uint8Array<ArrayBuffer>;
}

/** Searched for, and not its contrary matched: that would note every character on its way. */
const NOT_ASCII = /[^\0-\x7f]/;
const Native = {
  encoder: typeof TextEncoder === "undefined" ? undefined : new TextEncoder(),
  decoder:
    typeof TextDecoder === "undefined"
      ? undefined
      : new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }),
};

/** Return `text` in UTF-8; a lone surrogate becomes U+FFFD. */
export function encodeUtf8(text: string): Uint8Array<ArrayBuffer> {
  if (Native.encoder) {
    return Native.encoder.encode(text);
  }
  const octets = NOT_ASCII.test(text)
    ? unescape(encodeURIComponent(wellFormed(text)))
    : text;
  return (Uint8Array as unknown as Base64Constructor).fromBase64(btoa(octets));
}

/** Return the text that `bytes` hold in UTF-8; throws `BadValue` when they do not. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    if (Native.decoder) {
      return Native.decoder.decode(bytes);
    }
    const octets = atob((bytes as unknown as Base64Bytes).toBase64());
    return NOT_ASCII.test(octets) ? decodeURIComponent(escape(octets)) : octets;
  } catch (error) {
    if (error instanceof URIError || error instanceof TypeError) {
      throw new BadValue("not UTF-8");
    }
    throw error;
  }
}

/** Return the text that `bytes` hold in UTF-8, with U+FFFD for each part that is not. */
export function decodeUtf8Leniently(bytes: Uint8Array): string {
  try {
    return decodeUtf8(bytes);
  } catch (error) {
    if (error instanceof BadValue) {
      return decodeParts(bytes);
    }
    throw error;
  }
}

/** Return `text` with U+FFFD for each lone surrogate, which cannot cross to the host. */
export function wellFormed(text: string): string {
  return (text as unknown as { toWellFormed(): string }).toWellFormed();
}

function decodeParts(bytes: Uint8Array): string {
  const parts: string[] = [];
  let good = 0;
  let at = 0;
  while (at < bytes.length) {
    const size = sequenceAt(bytes, at);
    if (size > 0) {
      at += size;
    } else {
      parts.push(decodeUtf8(bytes.subarray(good, at)), "\ufffd");
      at += -size;
      good = at;
    }
  }
  parts.push(decodeUtf8(bytes.subarray(good)));
  return parts.join("");
}

/** Length of the sequence at `at`; negative: so many bytes are one bad part. */
function sequenceAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0;
  if (first < 0x80) {
    return 1;
  }
  const size = first < 0xc2 || first > 0xf4 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (size === 0) {
    return -1;
  }
  // What the second byte may be, so that no shorter form, surrogate or number too large passes.
  const least = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const most = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  for (let part = 1; part < size; part += 1) {
    const byte = bytes[at + part] ?? 0;
    if (byte < (part === 1 ? least : 0x80) || byte > (part === 1 ? most : 0xbf)) {
      return -part;
    }
  }
  return size;
}
