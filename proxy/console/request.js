// One request: its plan, what was predicted and what came, its branches, its ledgers.

import { get } from "./api.js";
import { byId, el } from "./dom.js";
import { count, duration, gpuSeconds, moment, percent, setting, significant, usd, whole } from "./format.js";
import { slo, tag } from "./requests.js";
import { waterfall } from "./waterfall.js";

export class Request {
  open(number) {
    this.number = number;
    this.loaded = null;
    byId("request").replaceChildren(el("p", { class: "muted" }, "Reading the request …"));
  }

  async refresh() {
    if (this.loaded === this.number) return; // a trace is written once
    const number = this.number;
    let trace;
    try {
      trace = await get(`requests/${encodeURIComponent(number)}`);
    } catch (error) {
      if (![400, 404].includes(error.status)) throw error;
      byId("request").replaceChildren(el("p", { class: "empty" }, error.message));
      return;
    }
    if (number !== this.number) return;
    this.loaded = number;
    byId("request-title").textContent = title(trace);
    byId("request").replaceChildren(...parts(trace).filter(Boolean));
  }
}

function title({ plan, path }) {
  return plan ? `${setting(plan)} on ${plan.backend}` : `Request to ${path}`;
}

function parts(trace) {
  return [
    el("p", { class: "tags" }, tag(trace.outcome, trace.outcome === "answered" ? "good" : "bad"),
      trace.slo_status === "none" ? null : slo(trace.slo_status), trace.stream ? tag("streamed", "plain") : null),
    trace.error ? el("p", { class: "warning" }, trace.error) : null,
    facts(trace),
    el("h2", {}, "Branches"),
    waterfall(trace),
    el("div", { class: "beside" }, compared(trace), ledgers(trace)),
    plan(trace),
    content("Prompt", trace.prompt),
    content("Answer", trace.answer),
    el("details", {}, el("summary", {}, "The whole record"), el("pre", { class: "mono", tabindex: "0" }, JSON.stringify(trace, null, 2))),
  ];
}

function list(rows, name = "facts") {
  const known = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: name }, ...known.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", {}, value))));
}

function facts(trace) {
  return list([
    ["Received", moment(trace.received_at)],
    ["Model", trace.model],
    ["Path", trace.path],
    ["Status", `${trace.status || "none sent"}`],
    ["Latency", duration(trace.latency_ms)],
    ["SLO", words(trace.slo)],
    ["Controls", words(trace.controls)],
    ["Trace", el("span", { class: "mono" }, trace.id)],
    ["Request id", trace.request_id === trace.id ? null : el("span", { class: "mono" }, trace.request_id)],
  ]);
}

/** {latency_ms: 2000, strict: false} → latency_ms 2000 */
function words(members) {
  const text = (value) => typeof value === "object" ? JSON.stringify(value) : String(value);
  const told = Object.entries(members ?? {}).filter(([, value]) => value !== null && value !== false);
  return told.map(([name, value]) => `${name} ${text(value)}`).join(", ");
}

function table(caption, heads, rows) {
  return el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head, at) => el("th", { scope: "col", class: at ? "number" : "" }, head)))),
    el("tbody", {}, ...rows.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name),
      ...cells.map((cell) => cell instanceof Node ? cell : el("td", { class: "number" }, cell))))));
}

function compared(trace) {
  const expected = trace.plan?.predicted ?? {};
  const attributed = trace.ledgers?.attributed;
  if (!("latency_ms" in expected)) {
    return el("section", { class: "panel" }, el("h2", {}, "Predicted and actual"), el("p", { class: "muted" }, "Nothing was predicted for this request."));
  }
  const votes = trace.selection?.votes;
  const agreement = votes ? `${percent(trace.selection.agreement, 0)} of ${count(votes, "vote")} agreed` : "not known without a label";
  const rows = [
    ["Latency, median", duration(Math.min(expected.median_ms, expected.latency_ms)), duration(trace.latency_ms)],
    ["Latency, at the percentile", duration(expected.latency_ms), duration(trace.latency_ms)],
    ["First token", duration(expected.ttft_ms), trace.ttft_ms === null ? reason("not streamed") : duration(trace.ttft_ms)],
    ["Generated tokens", whole(Math.round(expected.tokens)), `${trace.tokens_exact ? "" : "≈ "}${whole(trace.completion_tokens)}`],
    ["GPU time, attributed", gpuSeconds(expected.gpu_seconds), amount(attributed, "gpu_seconds", gpuSeconds)],
    ["Cost, attributed", expected.cost_usd === null ? reason("the backend has no price") : usd(expected.cost_usd), amount(attributed, "usd", usd)],
    ["Accuracy", `${percent(expected.accuracy)} (at least ${percent(expected.accuracy_lower)})${expected.prior ? ", assumed" : ""}`, reason(agreement)],
  ];
  return el("section", { class: "panel" }, el("h2", {}, "Predicted and actual"),
    el("div", { class: "scroll" }, table("", ["", "predicted", "actual"], rows)),
    expected.cut ? el("p", { class: "note" }, `Planned to be cut by the deadline; else it would have taken ${duration(expected.uncut_ms)}.`) : null);
}

/** Why there is no number. */
function reason(text) {
  return el("td", { class: "number reason muted" }, text);
}

function amount(of, member, say) {
  const value = of?.[member] ?? null;
  return value === null ? reason(of?.reason ?? "unknown") : say(value);
}

function ledgers(trace) {
  const box = (...inside) => el("section", { class: "panel" }, el("h2", {}, "Ledgers"), ...inside);
  if (!trace.ledgers) return box(el("p", { class: "muted" }, "No ledger: nothing was run on a backend."));
  const known = Object.entries(trace.ledgers);
  const accounts = known.filter(([, of]) => of !== null && typeof of === "object" && !Array.isArray(of) && ("usd" in of || "gpu_seconds" in of));
  const numbers = known.filter(([name, of]) => (of === null || typeof of === "number") && !accounts.some(([other]) => other === name));
  const plain = (name) => name.replaceAll("_", " ");
  const rows = accounts.map(([name, of]) => [plain(name), amount(of, "gpu_seconds", gpuSeconds), amount(of, "usd", usd)]);
  const others = numbers.map(([name, value]) => [plain(name), value === null ? "not known: no token was generated" : significant(value)]);
  return box(el("div", { class: "scroll" }, table("", ["", "GPU time", "US$"], rows)), others.length ? list(others) : null);
}

function plan(trace) {
  if (!trace.plan) return null;
  const { plan: of } = trace;
  const dropped = Object.entries(of.dropped ?? {}).map(([limit, plans]) => `${limit} ${plans}`).join(", ");
  const earlier = (trace.earlier_plans ?? []).map((one) => `${setting(one)} on ${one.backend}`).join("; ");
  return el("section", { class: "panel" }, el("h2", {}, "Plan"), list([
    ["Model", of.model],
    ["Parameters", words(of.params) || "none"],
    ["Chosen from", of.considered ? count(of.considered, "candidate") : null],
    ["Dropped", dropped],
    ["Gave up", (of.gave_up ?? []).join(", ")],
    ["Feasible", of.feasible ? "yes" : "no: the nearest plan"],
    ["Planned before", earlier],
    ["Note", of.note],
    ["Selection", trace.selection?.note],
    ["Cut by the deadline", trace.selection?.cut_by_deadline ? "yes" : null],
  ]));
}

function content(name, value) {
  if (value === null || value === undefined) return null;
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return el("details", {}, el("summary", {}, name), el("pre", { tabindex: "0" }, text));
}
