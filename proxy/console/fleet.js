// The fleet live: one card per backend, updated in place.

import { get } from "./api.js";
import { card, show } from "./card.js";
import { announce, byId, keyed, setText } from "./dom.js";
import { count, whole } from "./format.js";

const used = (backend) => (backend.in_flight + (backend.others ?? 0) + (backend.waiting ?? 0)) / Math.max(1, backend.seats);
const trouble = (backend) => !backend.serving ? 0 : backend.unfit.length || backend.metric_missing ? 1 : 2;
const ORDERS = {
  trouble: (a, b) => trouble(a) - trouble(b),
  name: () => 0,
  load: (a, b) => used(b) - used(a),
  kv: (a, b) => (b.kv_usage ?? -1) - (a.kv_usage ?? -1),
  bias: (a, b) => b.bias - a.bias,
};
const collate = new Intl.Collator("en", { numeric: true }).compare;

export class Fleet {
  constructor() {
    this.view = null; // the newest answer, which the other views use too
    this.form = byId("fleet-filters");
    this.form.addEventListener("input", () => this.show());
    this.form.addEventListener("submit", (event) => event.preventDefault());
  }

  open() {}

  async refresh() {
    const before = this.view;
    this.view = await get("fleet");
    tell(before, this.view);
    this.show();
  }

  /** The newest view, asked for where there is none yet. */
  async known() {
    this.view ??= await get("fleet");
    return this.view;
  }

  show() {
    if (this.view === null) return;
    const { text, order } = Object.fromEntries(new FormData(this.form));
    const wanted = text.trim().toLowerCase();
    const backends = this.view.backends
      .filter((backend) => searched(backend).includes(wanted))
      .sort((a, b) => ORDERS[order](a, b) || collate(a.name, b.name));
    keyed(byId("backends"), backends, (backend) => backend.name, card, show);
    byId("fleet-empty").hidden = backends.length > 0;
    setText(byId("fleet-summary"), summary(this.view));
  }
}

function searched(backend) {
  const state = backend.serving ? "serving" : "down";
  const parts = [backend.name, backend.model, backend.speculative, state, backend.profile.kind, ...Object.values(backend.profile.environment)];
  return parts.join(" ").toLowerCase();
}

function summary(view) {
  const answering = view.backends.filter((backend) => backend.use === "answers");
  const sum = (of) => answering.reduce((total, backend) => total + (of(backend) ?? 0), 0);
  const serving = view.backends.filter((backend) => backend.serving).length;
  const unknown = answering.filter((backend) => backend.others === null).length;
  const parts = [
    `${serving} of ${count(view.backends.length, "backend")} serving`,
    `${count(sum((b) => b.in_flight), "branch", "branches")} of ours`,
    `${whole(sum((b) => b.others))} of others`,
    `${whole(sum((b) => b.waiting))} waiting`,
    count(sum((b) => b.serving ? b.seats : 0), "seat"),
  ];
  if (unknown) parts.push(`load of ${unknown} unknown`);
  if (view.traces_dropped) parts.push(`${count(view.traces_dropped, "trace")} dropped`);
  return parts.join(" · ");
}

/** Who came and went since the last look. */
function tell(before, now) {
  if (before === null) return;
  const was = new Map(before.backends.map((backend) => [backend.name, backend.serving]));
  const changed = now.backends.filter((backend) => was.has(backend.name) && was.get(backend.name) !== backend.serving);
  const said = changed.slice(0, 5).map((backend) => `${backend.name} ${backend.serving ? "serves again" : "does not serve"}`);
  if (said.length) announce(said.join(", "));
}
