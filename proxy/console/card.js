// One backend: its state, load, calibration and profile.

import { el, keyed, setText } from "./dom.js";
import { age, count, percent, usd, whole } from "./format.js";

/** An empty card; `show` fills it. */
export function card(backend) {
  const part = (name, tag = "p") => el(tag, { class: name, "data-part": name });
  const bar = (name, ...colours) => el("div", { class: "bar", "aria-hidden": true, "data-part": name },
    ...colours.map((colour) => el("i", { class: colour })));
  return el("li", { class: "card", "aria-label": backend.name },
    el("div", { class: "card-head" }, el("h2", { "data-part": "name" }), el("span", { class: "tag", "data-part": "state" })),
    part("about"),
    part("warnings", "div"),
    el("div", { class: "load", "data-part": "load" }, bar("seats-bar", "own", "others", "waiting"), part("seats"),
      bar("kv-bar", "kv"), part("kv")),
    el("div", { class: "calibration" }, part("bias"), el("div", { class: "insides", "data-part": "insides" })),
    part("profile"));
}

export function show(node, backend) {
  const parts = Object.fromEntries([...node.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
  const [state, tone] = !backend.checked ? ["○ not looked at yet", "plain"] : backend.serving ? ["● serving", "good"] : ["▲ down", "bad"];
  setText(parts.name, backend.name);
  setText(parts.state, state);
  parts.state.dataset.tone = tone;
  setText(parts.about, about(backend));
  keyed(parts.warnings, warnings(backend), (text) => text, (text) => el("p", { class: "warning" }, text));
  parts.load.hidden = !backend.serving;
  load(parts, backend);
  calibration(parts, backend);
  setText(parts.profile, profile(backend.profile));
}

function about(backend) {
  const { gpu } = backend.profile.environment;
  return [
    backend.use === "scores" ? `scores answers: ${backend.model}` : backend.model,
    `TP ${backend.tensor_parallel_size}`,
    `${count(backend.gpus, "GPU")}${gpu ? ` (${gpu})` : ""}`,
    backend.speculative,
    backend.gpu_hour_usd === null ? "no price" : `${usd(backend.gpu_hour_usd)} per GPU-hour`,
  ].filter(Boolean).join(" · ");
}

function warnings(backend) {
  const found = [];
  if (!backend.serving && backend.problem) found.push(backend.problem);
  if (backend.metric_missing) found.push(`The load of others is unknown: the engine has no metric ${backend.metric_missing}.`);
  for (const { setting, reason } of backend.unfit) found.push(`No ${setting} requests: ${reason}`);
  if (backend.use === "answers" && backend.profile.kind === "assumed") found.push("No profile: latencies are a wide prior, wrong by up to a factor of two.");
  if (backend.profile.kind === "modelled") found.push("Modelled from other tensor-parallel degrees, not measured.");
  return [...new Set(found)];
}

function load(parts, backend) {
  const { in_flight: own, others, waiting, seats, kv_usage: kv } = backend;
  const most = Math.max(seats, own + (others ?? 0) + (waiting ?? 0), 1);
  [own, others ?? 0, waiting ?? 0].forEach((branches, index) => {
    parts["seats-bar"].children[index].style.width = `${100 * branches / most}%`;
  });
  const told = others === null ? "load of others unknown" : `${whole(others)} others · ${whole(waiting)} waiting`;
  setText(parts.seats, `${whole(own)} ours · ${told} · ${count(seats, "seat")}`);
  parts["kv-bar"].children[0].style.width = `${100 * (kv ?? 0)}%`;
  setText(parts.kv, `KV cache ${kv === null ? "unknown" : `${percent(kv, 0)} full`}`);
}

function calibration(parts, backend) {
  if (backend.seen === 0) {
    setText(parts.bias, "Calibration: no finished request yet");
  } else {
    const pace = backend.bias >= 1 ? `${backend.bias.toFixed(2)}× the profile` : `${backend.bias.toFixed(2)}× the profile (faster)`;
    setText(parts.bias, `Latency ${pace}, spread ${backend.spread.toFixed(2)} (${count(backend.seen, "request")})`);
  }
  keyed(parts.insides, backend.seen ? backend.inside : [], (inside) => inside.quantile, gauge, showGauge);
}

function gauge({ quantile }) {
  const mark = el("b");
  mark.style.left = `${quantile * 100}%`;
  return el("div", { class: "inside" }, el("span"), el("div", { class: "bar", "aria-hidden": true }, el("i", { class: "within" }), mark));
}

function showGauge(node, { quantile, within, known }) {
  const share = known ? within / known : null;
  setText(node.firstChild, `p${Math.round(quantile * 100)}: ${share === null ? "–" : percent(share, 0)}`);
  node.querySelector("i").style.width = `${100 * (share ?? 0)}%`;
  node.title = `${within} of ${known} requests ended within their predicted p${Math.round(quantile * 100)}`;
}

function profile(of) {
  if (of.kind === "assumed") return `Profile: none · uncertainty ±${percent(of.uncertainty, 0)}`;
  const error = of.latency_error === null ? null : `median error ${percent(of.latency_error)}${of.held_out ? " on held-out cells" : ""}`;
  const parts = [
    `Profile ${age(of.age_days)}${of.kind === "measured" ? "" : `, ${of.kind}`}`,
    of.cells ? count(of.cells, "cell") : null,
    `uncertainty ±${percent(of.uncertainty, 0)}`,
    error,
    of.environment.vllm ? `vLLM ${of.environment.vllm}` : null,
  ];
  return parts.filter(Boolean).join(" · ");
}
