// Numbers and texts as the page shows them. A number always has its unit.

const NONE = "–";
const TIMES = [
  [1e9, "s"],
  [1e6, "ms"],
  [1e3, "µs"],
  [1, "ns"],
];
const SIZES = [
  [2 ** 40, "TiB"],
  [2 ** 30, "GiB"],
  [2 ** 20, "MiB"],
  [2 ** 10, "KiB"],
];

/** Three digits that count: 1.23, 12.3, 123. */
function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 || size === 0 ? 0 : size >= 9.995 ? 1 : 2);
}

/** A duration in nanoseconds: "1.23 ms"; from two minutes on "2 min 3 s". */
export function duration(ns) {
  const s = ns / 1e9;
  if (s >= 86400 * 2) return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  if (s >= 7200) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  if (s >= 120) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  const [unit, name] = TIMES.find(([unit]) => ns >= unit * 0.9995) ?? TIMES[3];
  return `${digits(ns / unit)} ${name}`;
}

/** A duration that is 0 if there was nothing to measure. */
export function measured(ns) {
  return ns ? duration(ns) : NONE;
}

/** How much time per second of wall time: "312 ms/s". */
export function timeRate(ns) {
  return ns ? `${duration(ns)}/s` : NONE;
}

export function bytes(count) {
  const found = SIZES.find(([unit]) => count >= unit);
  return found ? `${digits(count / found[0])} ${found[1]}` : `${Math.round(count)} B`;
}

/** A number per second: "1,234 /s". */
export function rate(perSecond) {
  if (!perSecond) return NONE;
  return `${perSecond >= 1000 ? count(Math.round(perSecond)) : digits(perSecond)} /s`;
}

/** A ratio from 0 to 1: "97 %". */
export function percent(ratio) {
  const value = ratio * 100;
  if (value > 0 && value < 1) return "<1 %";
  if (value > 99 && value < 100) return ">99 %";
  return `${Math.round(value)} %`;
}

export function count(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "1 message", "3 messages". */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** The time of day, to the millisecond; the date before it if it is not today. */
export function clock(unixNs) {
  const date = new Date(Number(unixNs) / 1e6);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  const today = new Date().toDateString() === date.toDateString();
  return `${today ? "" : `${day} `}${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

// A colour or another sequence for terminals; two bytes at least.
const SEQUENCE = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\^_])/g;
// What a terminal or a browser acts upon, and what changes the direction of the text around it.
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** What an application wrote, with sequences for terminals left out and control characters made visible. */
export function visible(text) {
  return text.replace(SEQUENCE, "").replace(/\r\n/g, "\n").replace(CONTROL, (character) => {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? "␡" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}
