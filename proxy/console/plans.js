// The candidates as a table: what the charts draw, for keyboard and screen reader too.

import { el, keyed, setText } from "./dom.js";
import { duration, gpuSeconds, percent, perThousand, shortSetting } from "./format.js";

const FIRST = 15;
const COLUMNS = [
  { name: "Plan", value: (plan) => `${shortSetting(plan)} ${plan.backend}` },
  { name: "Accuracy", number: true, value: (plan) => plan.accuracy },
  { name: "at least", number: true, wide: true, value: (plan) => plan.lower },
  { name: "tail", number: true, value: (plan) => plan.latency_ms },
  { name: "p50", number: true, wide: true, value: (plan) => plan.median_ms },
  { name: "per 1,000", number: true, value: (plan) => plan.cost_usd ?? plan.gpu_seconds },
  { name: "tokens", number: true, wide: true, value: (plan) => plan.tokens },
  { name: "", value: (plan) => plan.over.length },
];

export class Plans {
  constructor(table, more, picked) {
    Object.assign(this, { table, more, picked, order: null, all: false, plans: [], pick: null });
    table.tHead.rows[0].append(...COLUMNS.map((column, index) => this.head(column, index)));
    more.addEventListener("click", () => {
      this.all = !this.all;
      this.draw();
    });
  }

  head(column, index) {
    const kind = [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ");
    if (!column.name) return el("th", { role: "columnheader", scope: "col", class: kind }, el("span", { class: "sr-only" }, "state"));
    const sort = el("button", { type: "button", class: "sort", on: { click: () => this.sort(index) } }, column.name);
    return el("th", { role: "columnheader", scope: "col", class: kind }, sort);
  }

  sort(index) {
    const again = this.order?.index === index;
    this.order = again && this.order.down === false ? null : { index, down: !again };
    [...this.table.tHead.rows[0].cells].forEach((head, at) => {
      if (this.order?.index === at) head.setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.draw();
  }

  /** `tail`: the name of the percentile; `pick`: the key of the plan that is marked. */
  show(plans, tail, pick) {
    Object.assign(this, { plans, pick });
    const heads = this.table.tHead.rows[0].cells;
    setText(heads[3].firstChild, tail);
    this.draw();
  }

  draw() {
    const sorted = [...this.plans].sort(this.order ? this.compare() : byWorth);
    const shown = this.all ? sorted : sorted.slice(0, FIRST);
    const marked = sorted.find((plan) => plan.key === this.pick);
    if (marked && !shown.includes(marked)) shown.push(marked);
    keyed(this.table.tBodies[0], shown, (plan) => plan.key, (plan) => this.row(plan), (row, plan) => this.fill(row, plan));
    this.more.hidden = this.plans.length <= FIRST;
    setText(this.more, this.all ? `Show the first ${FIRST} only` : `Show all ${this.plans.length} plans`);
  }

  compare() {
    const { value } = COLUMNS[this.order.index];
    const sign = this.order.down ? -1 : 1;
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    };
  }

  row(plan) {
    const name = el("button", { type: "button", class: "link", "aria-pressed": "false" },
      shortSetting(plan), el("span", { class: "where" }, ` on ${plan.backend}`));
    name.addEventListener("click", () => this.picked(plan));
    const cells = COLUMNS.slice(1).map((column) => el("td", { role: "cell", class: [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ") }));
    return el("tr", { role: "row" }, el("th", { role: "rowheader", scope: "row" }, name), ...cells);
  }

  fill(row, plan) {
    const texts = [
      `${percent(plan.accuracy)}${plan.prior ? "*" : ""}`,
      percent(plan.lower),
      duration(plan.latency_ms),
      duration(plan.median_ms),
      plan.cost_usd === null ? `${gpuSeconds(plan.gpu_seconds * 1000)}` : perThousand(plan.cost_usd),
      plan.tokens.toFixed(0),
      plan.chosen ? "★ choice" : plan.over.length ? `breaks ${plan.over.join(", ")}` : plan.cut ? "fits, cut" : "fits",
    ];
    const name = row.cells[0].firstChild;
    name.setAttribute("aria-pressed", plan.key === this.pick);
    texts.forEach((text, index) => setText(row.cells[index + 1], text));
    row.className = plan.chosen ? "is-ours" : plan.over.length ? "is-out" : "";
  }
}

function byWorth(a, b) {
  return b.chosen - a.chosen || a.over.length - b.over.length || b.accuracy - a.accuracy || a.latency_ms - b.latency_ms;
}
