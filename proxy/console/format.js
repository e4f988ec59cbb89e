// Numbers as people read them. What is not known has no number.

export const UNKNOWN = "unknown";

/** Three digits: 640 ms, 1.24 s, 75.3 s; `plain`: without zeros that say nothing. */
export function duration(ms, plain = false) {
  if (ms === null || ms === undefined) return UNKNOWN;
  if (ms < 9.995 && ms > 0) return `${trim(ms.toPrecision(2), plain)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  const s = ms / 1000;
  return `${trim(s.toFixed(s < 9.995 ? 2 : s < 99.95 ? 1 : 0), plain)} s`;
}

function trim(text, plain) {
  return plain && text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

export function percent(share, digits = 1) {
  return share === null || share === undefined ? UNKNOWN : `${(share * 100).toFixed(digits)} %`;
}

/** Three digits without an exponent where that can be read. */
export function significant(value, digits = 3) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-6) return value.toExponential(digits - 1);
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(places, 12));
}

export function usd(value) {
  return value === null || value === undefined ? UNKNOWN : `$${significant(value)}`;
}

/** Dollars for 1,000 requests: a single one costs too many zeros to read. */
export function perThousand(value) {
  return value === null || value === undefined ? UNKNOWN : `$${significant(value * 1000)}`;
}

export function gpuSeconds(value) {
  return value === null || value === undefined ? UNKNOWN : `${significant(value)} GPU s`;
}

export function count(value, one, many = `${one}s`) {
  return `${whole(value)} ${value === 1 ? one : many}`;
}

export function whole(value) {
  return value === null || value === undefined ? UNKNOWN : Math.round(value * 10) / 10 === Math.round(value)
    ? Math.round(value).toLocaleString("en-US") : value.toFixed(1);
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function moment(seconds) {
  return new Date(seconds * 1000).toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
}

export function age(days) {
  if (days === null) return "of unknown age";
  return days <= 0 ? "made today" : `${count(days, "day")} old`;
}

/** What runs, without where: `one answer`, `self-consistency with 8 samples`. */
export function setting({ strategy, params, n }) {
  if (strategy === "none") return params?.greedy ? "one greedy answer" : "one answer";
  const quorum = params?.m > 1 || params?.m === 1 && strategy !== "first-finish" ? ` (m=${params.m})` : "";
  const windows = params?.window ? `, ${params.window} at a time` : "";
  const greedy = params?.greedy ? ", the first at temperature 0" : "";
  return `${strategy} with ${windows ? "up to " : ""}${count(n, "sample")}${quorum}${windows}${greedy}`;
}

/** As requests spell it: `self-consistency:8`. */
export function shortSetting({ strategy, params, n }) {
  if (!strategy) return "none";
  const told = [params?.m ? `m=${params.m}` : "", params?.window ? `window=${params.window}` : "", params?.greedy ? "greedy" : ""];
  return [strategy === "none" ? "none" : `${strategy}:${n}`, ...told.filter(Boolean)].join(", ");
}
