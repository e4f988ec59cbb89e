// Every plan for a model now, with the SLO as sliders; the planner's choice is made in the proxy, not here.

import { ApiError, get } from "./api.js";
import { Chart } from "./chart.js";
import { colours } from "./colours.js";
import { announce, byId, el, keyed, options, setText } from "./dom.js";
import { count, duration, gpuSeconds, percent, perThousand, setting } from "./format.js";
import { Plans } from "./plans.js";
import { LogSlider } from "./slider.js";

const SETTLE_MS = 80; // a slider that is moved asks when it rests this long
const WHY = {
  latency: "too late", cost: "too dear", quality: "not accurate enough", queue: "more branches than free seats",
  ttft: "first token too late", tpot: "tokens too slow", unhealthy: "on backends that are down", excluded: "excluded",
  sampling: "on backends for greedy requests only", disagrees: "on backends whose answers differ from the table",
  incapable: "the engine cannot", "needs-unserved": "a model that it needs is down",
};

export class Frontier {
  constructor(fleet) {
    Object.assign(this, { fleet, form: byId("slo"), view: null, plans: [], only: null, pick: null, ranged: "", timer: 0 });
    const changed = () => this.settle();
    this.latency = new LogSlider(byId("s-latency"), (ms) => duration(ms, true), changed);
    this.cost = new LogSlider(byId("s-cost"), (usd) => `${perThousand(usd)} per 1,000`, changed);
    this.form.addEventListener("input", () => this.settle());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    byId("colour").addEventListener("change", () => this.draw());
    const picked = (plan) => {
      this.pick = this.pick === plan.key ? null : plan.key;
      this.draw();
    };
    const lines = (plan) => this.lines(plan);
    this.charts = [
      new Chart(byId("chart-latency"), { x: (p) => p.latency_ms, title: "latency of the whole answer", label: (ms) => duration(ms, true), lines, picked }),
      new Chart(byId("chart-cost"), { x: (p) => this.priced ? p.cost_usd * 1000 : p.gpu_seconds, title: "", label: (x) => this.priced ? `$${Number(x.toPrecision(2))}` : `${Number(x.toPrecision(2))}`, lines, picked }),
    ];
    this.table = new Plans(document.querySelector("table.plans"), byId("all-plans"), picked);
  }

  get quality() {
    return this.form.elements.quality.value / 100 || null;
  }

  open(_, parameters) {
    this.asked = parameters;
  }

  settle() {
    clearTimeout(this.timer);
    this.sayQuality();
    this.timer = setTimeout(() => {
      history.replaceState(null, "", `#frontier?${new URLSearchParams(given(this.wanted()))}`);
      this.changed();
    }, SETTLE_MS);
  }

  sayQuality() {
    const text = this.quality === null ? "no demand" : percent(this.quality, 0);
    setText(document.querySelector("output[for=s-quality]"), text);
    this.form.elements.quality.setAttribute("aria-valuetext", text);
  }

  wanted() {
    const { model, task, prompt_tokens: tokens, greedy, objective } = this.form.elements;
    return {
      model: model.value, task: task.value, objective: objective.value, prompt_tokens: tokens.value || null,
      greedy: greedy.checked || null, latency_ms: this.latency.value, cost_usd: this.cost.value, quality: this.quality,
    };
  }

  async refresh() {
    const fleet = await this.fleet.known();
    options(this.form.elements.model, fleet.models.map((model) => [model.name, model.name]));
    this.adopt();
    const model = fleet.models.find((one) => one.name === this.form.elements.model.value);
    options(this.form.elements.task, model.tasks.length ? model.tasks.map((task) => [task, task]) : [["", "none"]]);
    const wanted = this.wanted();
    try {
      this.view = await get("frontier", wanted);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 400) throw error;
      setText(byId("choice"), error.message);
      return;
    }
    this.plans = plans(this.view);
    this.priced = this.plans.every((plan) => plan.cost_usd !== null);
    this.charts[1].title = this.priced ? "attributed cost per 1,000 requests" : "attributed GPU-seconds per request";
    this.charts[0].title = `p${Math.round(this.view.percentile * 1000) / 10} latency of the whole answer`;
    this.range(wanted);
    this.draw();
  }

  /** The demands that the address names, once. */
  adopt() {
    const asked = this.asked;
    this.asked = null;
    if (!asked) return;
    const { elements } = this.form;
    if (asked.has("model")) elements.model.value = asked.get("model");
    if (asked.has("objective")) elements.objective.value = asked.get("objective");
    if (asked.has("prompt_tokens")) elements.prompt_tokens.value = asked.get("prompt_tokens");
    if (asked.has("greedy")) elements.greedy.checked = asked.get("greedy") === "true";
    if (asked.has("quality")) elements.quality.value = Math.round(100 * asked.get("quality"));
    if (!elements.model.value) elements.model.selectedIndex = 0;
    const first = this.view === null ? this.fleet.view.latency_ms : null;
    this.latency.set(number(asked.get("latency_ms")) ?? this.latency.value ?? first);
    this.cost.set(number(asked.get("cost_usd")) ?? this.cost.value ?? (this.view === null ? this.fleet.view.cost_usd : null));
    this.sayQuality();
  }

  /** What the sliders span: fixed while the model stays, so that they do not move under the hand. */
  range(wanted) {
    const { model, task, prompt_tokens: tokens, greedy } = wanted;
    const key = JSON.stringify([model, task, tokens, greedy, this.plans.length > 0]);
    if (key === this.ranged) return;
    this.ranged = key;
    this.latency.range(...span(this.plans.map((plan) => plan.uncut_ms)), "no plan");
    this.cost.range(...span(this.plans.map((plan) => plan.cost_usd).filter((usd) => usd > 0)), "no backend has a price");
    if (this.charts.length && this.view.backends.length > 8) byId("colour").value = "strategy";
  }

  draw() {
    if (this.view === null) return;
    const { view } = this;
    const palette = colours(this.plans, byId("colour").value, view);
    const out = (plan) => plan.over.length > 0 || (this.only !== null && !this.matches(plan));
    const shown = this.only === null ? this.plans : this.plans.filter((plan) => this.matches(plan) || plan.chosen);
    const picture = { plans: shown, out: (plan) => out(plan), colour: palette.colour, picked: this.pick };
    const perRequest = this.cost.value;
    this.charts[0].draw({ ...picture, limit: this.latency.value });
    this.charts[1].draw({ ...picture, limit: perRequest === null || !this.priced ? null : perRequest * 1000 });
    keyed(byId("legend"), palette.entries, (entry) => entry.name + entry.colour, swatch);
    this.say(view);
    this.why(view);
    this.table.show(shown, `p${Math.round(view.percentile * 1000) / 10}`, this.pick);
  }

  matches(plan) {
    return plan.over.includes(this.only);
  }

  say(view) {
    const chosen = this.plans.find((plan) => plan.chosen);
    const line = byId("choice");
    if (!chosen) {
      line.replaceChildren("Nothing can run now.");
      announce("Nothing can run now.");
    } else {
      const what = `${setting(chosen)} on ${chosen.backend}`;
      const before = view.feasible ? "The planner runs " : `No plan meets every demand; the nearest gives up ${view.gave_up.join(", ")}: `;
      line.replaceChildren(before, el("strong", {}, what), `: ${this.figures(chosen)}.`);
      announce(`${before}${what}`);
    }
    const notes = [`${count(view.considered, "candidate")}, prompts of ${count(view.prompt_tokens, "token")}`];
    if (view.total > this.plans.length) notes.push(`${this.plans.length} of ${view.total} drawn`);
    if (view.note) notes.push(view.note);
    if (this.plans.some((plan) => plan.prior)) notes.push("* accuracy is assumed: the task has no quality table");
    setText(byId("choice-note"), `${notes.join(" · ")}.`);
  }

  figures(plan) {
    const tail = `p${Math.round(this.view.percentile * 1000) / 10}`;
    const cost = plan.cost_usd === null ? `${gpuSeconds(plan.gpu_seconds)} (no price)` : `${perThousand(plan.cost_usd)} per 1,000 requests`;
    return `accuracy ${percent(plan.accuracy)} (at least ${percent(plan.lower)}${plan.prior ? ", assumed" : ""}), ${tail} ${duration(plan.latency_ms)} (p50 ${duration(plan.median_ms)}), ${cost}`;
  }

  lines(plan) {
    const told = [`${setting(plan)} on ${plan.backend}`, ...this.figures(plan).split(/, (?![^(]*\))/), `${plan.tokens.toFixed(0)} tokens`];
    if (plan.cut) told.push(`the deadline cuts it; else it takes ${duration(plan.uncut_ms)}`);
    if (plan.over.length) told.push(`out: ${plan.over.map((limit) => WHY[limit] ?? limit).join(", ")}`);
    return told;
  }

  why(view) {
    const reasons = Object.entries(view.dropped);
    keyed(byId("why"), reasons, ([reason]) => reason, ([reason]) => {
      const press = () => {
        this.only = this.only === reason ? null : reason;
        this.draw();
      };
      return el("button", { type: "button", class: "chip", on: { click: press } });
    }, (chip, [reason, plans]) => {
      setText(chip, `${WHY[reason] ?? reason}: ${plans}`);
      chip.setAttribute("aria-pressed", this.only === reason);
      chip.disabled = !view.limits.includes(reason);
    });
    if (this.only !== null && !(this.only in view.dropped)) this.only = null;
    keyed(byId("left-out"), Object.entries(view.left_out), ([name]) => name, () => el("li", { class: "warning" }),
      (item, [name, reason]) => setText(item, `${name} is no candidate: ${reason}`));
  }
}

function plans(view) {
  const { columns, settings, backends, limits } = view;
  return columns.backend.map((backend, index) => {
    const known = settings[columns.setting[index]];
    return {
      ...known,
      backend: backends[backend],
      key: `${columns.backend[index]}|${columns.setting[index]}`,
      latency_ms: columns.latency_ms[index],
      uncut_ms: columns.uncut_ms[index],
      median_ms: Math.min(columns.median_ms[index], columns.latency_ms[index]), // the deadline cuts both
      cost_usd: columns.cost_usd[index],
      gpu_seconds: columns.gpu_seconds[index],
      accuracy: columns.accuracy[index],
      lower: columns.accuracy_lower[index],
      tokens: columns.tokens[index],
      over: limits.filter((_, bit) => columns.over[index] & 1 << bit),
      cut: columns.uncut_ms[index] > columns.latency_ms[index],
      chosen: index === view.chosen,
    };
  });
}

function span(values) {
  return values.length ? [Math.min(...values) / 1.1, Math.max(...values) * 1.1] : [null, null];
}

function number(text) {
  const value = text === null ? NaN : Number(text);
  return value > 0 ? value : null;
}

function given(parameters) {
  return Object.entries(parameters).filter(([, value]) => value !== null && value !== "");
}

function swatch({ name, colour }) {
  const box = el("i", { class: "swatch" });
  box.style.background = colour;
  return el("li", {}, box, name);
}
