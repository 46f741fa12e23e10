/* Values as text. Times come as the server's seconds since the epoch and are shown in the viewer's
   zone. */

export const NOTHING = "\u2013";

const DATE = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  timeZoneName: "short",
});
const CLOCK = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

/** A moment in full, with the zone. */
export function fullTime(at) {
  return isMoment(at) ? DATE.format(new Date(1000 * at)) : "never";
}

/** A moment for a line of a list. */
export function shortTime(at) {
  return isMoment(at) ? CLOCK.format(new Date(1000 * at)) : NOTHING;
}

/* A device may claim any time; what no calendar holds is no moment. */
function isMoment(at) {
  return Number.isFinite(at) && at > 0 && at < 8.64e12;
}

/** How long ago a moment is, in one unit. */
export function ago(at, now) {
  if (!isMoment(at)) return NOTHING;
  const seconds = Math.round(now - at);
  if (seconds < -5) return `in ${span(-seconds)}`;
  return seconds < 5 ? "just now" : `${span(seconds)} ago`;
}

/** A whole number of seconds in the unit that reads best. */
export function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  const days = Math.floor(seconds / 86400);
  return days < 730 ? `${days} d` : `${Math.floor(days / 365)} years`;
}

/** A measured duration, in seconds. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  if (seconds === 0) return "0 s";
  if (seconds < 0.0995) return `${(1000 * seconds).toPrecision(2)} ms`;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return span(seconds);
}

/** Bytes, in the unit that reads best. */
export function bytes(count) {
  if (!Number.isFinite(count)) return NOTHING;
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ]) {
    if (count >= size) return `${(count / size).toFixed(count < 10 * size ? 1 : 0)} ${unit}`;
  }
  return `${count} B`;
}

/** A width multiplier; 0 means none. */
export function width(value) {
  return value ? String(Number(value.toPrecision(6))) : NOTHING;
}

/** A share as a percentage. */
export function percent(share) {
  return Number.isFinite(share) ? `${Math.round(100 * share)} %` : NOTHING;
}

/** A number with so many digits after the point. */
export function fixed(value, digits = 3) {
  return Number.isFinite(value) ? value.toFixed(digits) : NOTHING;
}

/** A contribution, with its sign. */
export function signed(value) {
  if (!Number.isFinite(value)) return NOTHING;
  return `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(4)}`;
}

/** A digest, as much of it as tells models apart. */
export function digest(text) {
  return text ? text.slice(0, 8) : NOTHING;
}

/** A count with its noun. */
export function counted(count, noun, plural = `${noun}s`) {
  return `${count} ${count === 1 ? noun : plural}`;
}
