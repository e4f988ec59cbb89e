// Recent requests: filtered by the proxy, page by page, and the new ones as they come.

import { get } from "./api.js";
import { byId, el, keyed, options, setText } from "./dom.js";
import { clock, duration, moment, perThousand, shortSetting, usd } from "./format.js";

const PAGE = 50;
const BURST = 200; // of new ones at once; where there are more, the list starts anew
const MOST = 600; // rows on the page

export class Requests {
  constructor(fleet) {
    Object.assign(this, { fleet, form: byId("request-filters"), rows: [], more: false, newest: null, asked: null });
    this.form.addEventListener("input", (event) => event.target.name === "live" ? this.changed() : this.anew());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    byId("older").addEventListener("click", () => this.older());
  }

  open(_, parameters) {
    this.asked = parameters;
  }

  filters() {
    const { live, ...filters } = Object.fromEntries(new FormData(this.form));
    for (const [name, value] of Object.entries(filters)) filters[name] = value.trim();
    return filters;
  }

  anew() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.newest = null;
      const named = Object.entries(this.filters()).filter(([, value]) => value);
      history.replaceState(null, "", `#requests?${new URLSearchParams(named)}`);
      this.changed();
    }, 200);
  }

  async refresh() {
    const fleet = await this.fleet.known();
    this.offer(fleet);
    this.adopt();
    if (this.newest === null) await this.first();
    else if (this.form.elements.live.checked) await this.latest();
    this.show();
  }

  offer(fleet) {
    const all = (names) => [["", "all"], ...names.map((name) => [name, name])];
    options(this.form.elements.model, all(fleet.models.map((model) => model.name)));
    options(this.form.elements.backend, all(fleet.backends.filter((b) => b.use === "answers").map((b) => b.name)));
    const strategies = [...new Set(this.rows.map((row) => row.strategy).filter(Boolean))].sort();
    keyed(byId("strategies"), strategies, (name) => name, (name) => el("option", { value: name }));
  }

  adopt() {
    for (const [name, value] of this.asked ?? []) {
      const field = this.form.elements[name];
      if (field && field.value !== value) {
        field.value = value;
        this.newest = null;
      }
    }
    this.asked = null;
  }

  /** The store's newest number comes first: from there on only what is newer is looked at. */
  async first() {
    const filters = this.filters();
    const top = await get("requests", { limit: 1 });
    const page = await get("requests", { ...filters, limit: PAGE });
    this.newest = Math.max(0, top.data[0]?.number ?? 0, page.data[0]?.number ?? 0);
    Object.assign(this, { rows: page.data, more: page.more });
  }

  async latest() {
    const page = await get("requests", { ...this.filters(), limit: BURST, after: this.newest });
    if (page.more) return this.first();
    if (page.data.length === 0) return;
    this.newest = page.data[0].number;
    this.rows = [...page.data, ...this.rows];
    if (this.rows.length > MOST) {
      this.rows.length = MOST;
      this.more = true;
    }
  }

  async older() {
    const button = byId("older");
    button.disabled = true;
    try {
      const page = await get("requests", { ...this.filters(), limit: PAGE, before: this.rows.at(-1).number });
      const first = page.data[0];
      this.rows = [...this.rows, ...page.data];
      this.more = page.more;
      this.show();
      if (first) byId("request-rows").querySelector(`[data-key="${first.number}"] a`).focus();
    } catch {
      this.changed(); // says what is wrong
    } finally {
      button.disabled = false;
    }
  }

  show() {
    keyed(byId("request-rows"), this.rows, (row) => row.number, line);
    byId("older").hidden = !this.more;
    const filtered = Object.values(this.filters()).some(Boolean);
    byId("requests-empty").hidden = this.rows.length > 0;
    setText(byId("requests-empty"), filtered
      ? "No stored request matches these filters."
      : "No request is stored yet. One appears within a second after it ends, unless the configuration turns traces off.");
  }
}

/** One request; it never changes. */
function line(row) {
  const plan = row.strategy ? `${shortSetting({ strategy: row.strategy, n: row.n })} on ${row.backend}` : "no plan";
  const ends = Object.entries(row.branches).map(([outcome, branches]) => `${branches} ${outcome}`).join(", ");
  return el("tr", { role: "row" },
    el("th", { role: "rowheader", scope: "row" }, el("a", { href: `#request/${row.number}`, title: moment(row.received_at) }, clock(row.received_at))),
    el("td", { role: "cell", class: "plan" }, plan, row.error ? el("span", { class: "error" }, row.error) : null),
    el("td", { role: "cell", class: "wide name" }, row.model ?? "none"),
    el("td", { role: "cell", class: "mark" }, tag(row.outcome, row.outcome === "answered" ? "plain" : "bad"), row.status && row.status !== 200 ? ` ${row.status}` : null),
    el("td", { role: "cell", class: "mark" }, slo(row.slo_status), row.slo_latency_ms === null ? null : el("span", { class: "muted wide-inline" }, ` ${duration(row.slo_latency_ms, true)}`)),
    el("td", { role: "cell", class: "number" }, duration(row.latency_ms)),
    el("td", { role: "cell", class: "number wide", title: ends }, branches(row.branches)),
    el("td", { role: "cell", class: "number wide" }, row.completion_tokens.toLocaleString("en-US")),
    row.cost_usd === null
      ? el("td", { role: "cell", class: "number wide muted reason" }, row.cost_reason ?? "unknown")
      : el("td", { role: "cell", class: "number wide", title: `${perThousand(row.cost_usd)} per 1,000 requests` }, usd(row.cost_usd)));
}

function branches(ends) {
  const all = Object.values(ends).reduce((sum, branches) => sum + branches, 0);
  const done = ends.completed ?? 0;
  return all === 0 ? "0" : done === all ? `${all}` : `${done} of ${all}`;
}

export function tag(text, tone) {
  return el("span", { class: "tag", "data-tone": tone }, text.replace("_", " "));
}

const SLO = { met: ["✓ met", "good"], missed: ["✗ missed", "bad"], degraded: ["◐ degraded", "bad"], none: ["no SLO", "plain"] };

export function slo(status) {
  const [text, tone] = SLO[status] ?? [status, "plain"];
  return status === "none" ? el("span", { class: "muted" }, "–", el("span", { class: "sr-only" }, " no SLO")) : tag(text, tone);
}

