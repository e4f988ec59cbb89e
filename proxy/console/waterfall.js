// The branches of a request over time, one row each: waiting for its first token, then generating, and how it ended.

import { el } from "./dom.js";
import { duration, significant } from "./format.js";

const ENDS = { completed: "✓", cancelled: "⊘", failed: "✗", truncated: "✂" };

/** Text of a trace goes in as text. */
export function waterfall(trace) {
  const branches = trace.branches ?? [];
  const winners = new Set(trace.selection?.winners ?? []);
  const scale = scaleOf(trace, branches);
  const rows = [axis(scale, trace), whole(trace, scale)];
  const waves = new Set(branches.map((branch) => branch.wave));
  let wave = null;
  for (const branch of branches) {
    if (waves.size > 1 && branch.wave !== wave) {
      rows.push(el("li", { class: "wave" }, `Wave ${branch.wave}`));
      wave = branch.wave;
    }
    rows.push(row(branch, winners.has(branch.index), scale, trace));
  }
  const empty = branches.length ? null : el("p", { class: "muted" }, "No branch was started.");
  return el("div", { class: "panel" }, legend(scale), el("ol", { class: "waterfall" }, ...rows), empty);
}

function scaleOf(trace, branches) {
  const ends = branches.map((branch) => branch.end_ms ?? branch.first_token_ms ?? branch.start_ms);
  const last = Math.max(trace.latency_ms, ...ends, 0.1);
  const deadline = trace.slo?.latency_ms ?? null;
  const end = deadline !== null && deadline < last * 1.6 ? Math.max(last, deadline) : last;
  return { end: end * 1.02, last, deadline: deadline !== null && deadline <= end ? deadline : null };
}

function place(node, scale, from, to = from) {
  node.style.left = `${100 * Math.max(0, from) / scale.end}%`;
  if (to > from) node.style.width = `${100 * (to - from) / scale.end}%`;
  return node;
}

function track(scale, ...spans) {
  const line = scale.deadline === null ? null : place(el("b", { class: "deadline" }), scale, scale.deadline);
  return el("div", { class: "track", "aria-hidden": true }, ...spans, line);
}

function axis(scale, trace) {
  const step = [1, 2, 5].flatMap((n) => [-1, 0, 1, 2, 3, 4, 5, 6].map((e) => n * 10 ** e)).sort((a, b) => a - b)
    .find((size) => scale.end / size <= 5) ?? scale.end;
  const ticks = [];
  for (let at = 0; at < scale.end * 0.9; at += step) ticks.push(place(el("span", {}, at === 0 ? "0" : duration(at, true)), scale, at));
  const told = trace.slo?.latency_ms ? `Deadline ${duration(trace.slo.latency_ms, true)}` : "";
  return el("li", { class: "axis", "aria-hidden": true }, el("div", { class: "who muted" }, told), el("div", { class: "ticks" }, ...ticks));
}

function whole(trace, scale) {
  return el("li", { class: "whole" }, el("div", { class: "who" }, "Request"),
    track(scale, place(el("span", { class: "span request" }), scale, 0, trace.latency_ms)),
    el("div", { class: "end" }, duration(trace.latency_ms)));
}

function row(branch, won, scale, trace) {
  const end = branch.end_ms ?? scale.last;
  const first = branch.first_token_ms ?? end;
  const told = [
    `${ENDS[branch.outcome] ?? "?"} ${branch.outcome}`,
    `${branch.completion_tokens.toLocaleString("en-US")} tokens`,
    branch.score === null ? null : `score ${significant(branch.score)}`,
    duration(end - branch.start_ms),
  ];
  const times = `, started at ${duration(branch.start_ms)}, first token ${branch.first_token_ms === null ? "never" : `at ${duration(branch.first_token_ms)}`}, `
    + `${branch.end_ms === null ? "not ended" : `ended at ${duration(branch.end_ms)}`}`;
  const name = [`#${branch.index}`, branch.backend === trace.plan?.backend && !branch.role ? null : branch.backend, branch.role].filter(Boolean);
  const extra = [branch.error, branch.answer === null ? null : `answer: ${branch.answer}`].filter(Boolean);
  return el("li", { class: "branch", "data-outcome": branch.outcome, "data-winner": won, "data-role": branch.role },
    el("div", { class: "who" }, name.join(" · "), won ? el("strong", { class: "won" }, " ★ winner") : null),
    track(scale, place(el("span", { class: "span wait" }), scale, branch.start_ms, first),
      place(el("span", { class: "span run" }), scale, first, Math.max(end, first + scale.end * 0.003))),
    el("div", { class: "end" }, told.filter(Boolean).join(" · "), el("span", { class: "sr-only" }, times)),
    ...extra.map((text) => el("div", { class: "said" }, text)));
}

function legend({ deadline }) {
  const entry = (name, text) => el("li", {}, el("i", { class: `swatch ${name}` }), text);
  return el("ul", { class: "legend" }, entry("k-wait", "until the first token"), entry("k-winner", "winner"),
    entry("k-completed", "completed"), entry("k-cancelled", "cancelled"), entry("k-truncated", "truncated"),
    entry("k-failed", "failed"), deadline !== null ? entry("k-deadline", "deadline") : null);
}
