// Accuracy against something on a logarithmic axis: a point per plan, the best so far as a line, the choice ringed.

import { svg } from "./dom.js";
import { percent } from "./format.js";
import { hideTip, showTip } from "./tip.js";

const HEIGHT = 300;
const EDGE = { left: 52, right: 14, top: 26, bottom: 44 };
const NEAR = 22; // pixels

export class Chart {
  /** `x`: a plan's value, null where it has none; `label`: a tick's text; `lines`: what a point says. */
  constructor(container, { x, title, label, lines, picked }) {
    Object.assign(this, { container, x, title, label, lines, drawn: [], last: null });
    this.root = svg("svg", { role: "img", height: HEIGHT });
    container.append(this.root);
    new ResizeObserver(() => this.last && this.draw(this.last)).observe(container);
    this.root.addEventListener("pointermove", (event) => this.hover(event));
    this.root.addEventListener("pointerdown", (event) => this.hover(event));
    this.root.addEventListener("pointerleave", hideTip);
    this.root.addEventListener("click", (event) => {
      const found = this.near(event);
      if (found) picked(found);
    });
  }

  /** `plans` in any order; `limit`: the slider's value on this axis; `out`: whether a plan is drawn faintly. */
  draw(picture) {
    this.last = picture;
    const width = this.container.clientWidth;
    const plans = picture.plans.filter((plan) => this.x(plan) > 0);
    if (width === 0) return;
    this.root.setAttribute("width", width);
    this.root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.root.setAttribute("aria-label", this.spoken(plans, picture));
    this.drawn = [];
    if (plans.length === 0) {
      const empty = svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "tick" }, "nothing to draw");
      this.root.replaceChildren(empty);
      return;
    }
    const scale = scales(plans, this.x, width);
    this.root.replaceChildren(
      axes(scale, width, this.title, this.label),
      limitLine(scale, picture.limit),
      best(plans, this.x, scale),
      this.points(plans, picture, scale),
      this.marks(plans, picture, scale, width));
  }

  points(plans, picture, scale) {
    const group = svg("g");
    const order = [...plans].sort((a, b) => picture.out(b) - picture.out(a));
    for (const plan of order) {
      const [x, y] = [scale.x(this.x(plan)), scale.y(plan.accuracy)];
      this.drawn.push({ plan, x, y });
      const radius = 3.6 + Math.min(4, Math.log2(plan.n));
      const style = picture.out(plan) ? "point out" : "point";
      group.append(svg("path", { d: shape(plan.strategy, x, y, radius), class: style, fill: picture.colour(plan) }));
    }
    return group;
  }

  marks(plans, picture, scale, width) {
    const group = svg("g");
    const ring = (plan, name, text) => {
      const [x, y] = [scale.x(this.x(plan)), scale.y(plan.accuracy)];
      group.append(svg("circle", { cx: x, cy: y, r: 13, class: name }));
      if (!text) return;
      const right = x < width / 2;
      const above = y > EDGE.top + 34;
      group.append(svg("text", { x: x + (right ? 12 : -12), y: above ? y - 14 : y + 24, class: "choice", "text-anchor": right ? "start" : "end" }, text));
    };
    const picked = plans.find((plan) => plan.key === picture.picked);
    if (picked) ring(picked, "ring picked", "");
    const chosen = plans.find((plan) => plan.chosen);
    if (chosen) {
      const x = scale.x(this.x(chosen));
      group.append(svg("line", { x1: x, x2: x, y1: scale.y(chosen.accuracy), y2: Math.min(scale.y(chosen.lower), HEIGHT - EDGE.bottom), class: "whisker" }));
      ring(chosen, "ring", "planner's choice");
    }
    return group;
  }

  near(event) {
    const box = this.root.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let found = null;
    let least = NEAR;
    for (const point of this.drawn) {
      const far = Math.hypot(point.x - x, point.y - y);
      if (far <= least) [found, least] = [point.plan, far]; // of equals the last one: it is drawn on top
    }
    return found;
  }

  hover(event) {
    const found = this.near(event);
    if (found) showTip(event.clientX, event.clientY, this.lines(found));
    else hideTip();
  }

  spoken(plans, picture) {
    const chosen = plans.find((plan) => plan.chosen);
    const within = plans.filter((plan) => !picture.out(plan)).length;
    const choice = chosen ? `; the planner's choice is ${this.lines(chosen).join(", ")}` : "";
    return `Accuracy against ${this.title}: ${plans.length} plans, ${within} within all limits${choice}. The table below lists them.`;
  }
}

function scales(plans, value, width) {
  const xs = plans.map(value);
  const ys = plans.map((plan) => plan.accuracy);
  const [low, high] = [Math.min(...xs) / 1.15, Math.max(...xs) * 1.15];
  const margin = Math.max((Math.max(...ys) - Math.min(...ys)) * 0.15, 0.01);
  const [bottom, top] = [Math.max(0, Math.min(...ys) - margin), Math.min(1, Math.max(...ys) + margin)];
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  return {
    low, high, bottom, top,
    x: (number) => EDGE.left + inner.width * Math.log(number / low) / Math.log(high / low),
    y: (share) => EDGE.top + inner.height * (1 - (share - bottom) / (top - bottom)),
  };
}

function axes(scale, width, title, label) {
  const [left, right, floor] = [EDGE.left, width - EDGE.right, HEIGHT - EDGE.bottom];
  const group = svg("g", { "aria-hidden": true });
  for (const share of shares(scale.bottom, scale.top)) {
    const y = scale.y(share);
    group.append(svg("line", { x1: left, x2: right, y1: y, y2: y, class: "grid" }));
    group.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end", class: "tick" }, percent(share, scale.top - scale.bottom > 0.06 ? 0 : 1)));
  }
  let free = left - 10;
  for (const value of ticks(scale.low, scale.high)) {
    const x = scale.x(value);
    const text = label(value);
    const half = text.length * 3.6;
    group.append(svg("line", { x1: x, x2: x, y1: EDGE.top, y2: floor, class: "grid" }));
    if (x - half < free || x + half > width) continue;
    group.append(svg("text", { x, y: floor + 17, "text-anchor": "middle", class: "tick" }, text));
    free = x + half + 8;
  }
  group.append(svg("line", { x1: left, x2: right, y1: floor, y2: floor, class: "domain" }));
  group.append(svg("text", { x: (left + right) / 2, y: HEIGHT - 6, "text-anchor": "middle", class: "title" }, title));
  group.append(svg("text", { x: 0, y: 13, class: "title" }, "expected accuracy"));
  return group;
}

function ticks(low, high) {
  const steps = high / low < 1e3 ? [1, 2, 5] : [1];
  const found = [];
  for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.log10(high); exponent += 1) {
    for (const step of steps) {
      const tick = Number((step * 10 ** exponent).toPrecision(6));
      if (tick >= low && tick <= high) found.push(tick);
    }
  }
  return found;
}

function shares(low, high) {
  const step = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((size) => (high - low) / size <= 7) ?? 0.25;
  const found = [];
  for (let share = Math.ceil(low / step) * step; share <= high + 1e-9; share += step) found.push(share);
  return found;
}

function limitLine(scale, limit) {
  if (limit === null || limit < scale.low || limit > scale.high) return svg("g");
  const x = scale.x(limit);
  return svg("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "limit" });
}

/** The plans that no plan to their left surpasses, as steps to the axis's end. */
function best(plans, value, scale) {
  const order = [...plans].sort((a, b) => value(a) - value(b) || b.accuracy - a.accuracy);
  let path = "";
  let most = -1;
  for (const plan of order) {
    if (plan.accuracy <= most) continue;
    const [x, y] = [scale.x(value(plan)), scale.y(plan.accuracy)];
    path += path ? `H${x}V${y}` : `M${x},${y}`;
    most = plan.accuracy;
  }
  return svg("path", { d: `${path}H${scale.x(scale.high)}`, class: "best" });
}

const VOTES = /vote|consistency/;

function shape(strategy, x, y, r) {
  if (strategy === "none") return `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`;
  if (VOTES.test(strategy)) return `M${x - r * 0.9},${y - r * 0.9}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`;
  const tip = strategy === "first-finish" ? -r * 1.15 : r * 1.15;
  return `M${x},${y + tip}L${x + r * 1.1},${y - tip * 0.75}H${x - r * 1.1}Z`;
}
