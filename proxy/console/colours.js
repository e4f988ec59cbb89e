// A colour per kind of plan: eight that colour-blind readers tell apart, and one for all further kinds.

const MOST = 8;

/** `by`: backend, strategy or reason. Gives `colour(plan)` and the legend's `entries`. */
export function colours(plans, by, view) {
  const kind = KINDS[by];
  const counts = new Map();
  for (const plan of plans) counts.set(kind(plan), (counts.get(kind(plan)) ?? 0) + 1);
  const names = by === "backend" ? view.backends.filter((name) => counts.has(name)) : [...counts.keys()].sort();
  const shown = names.length > MOST ? names.slice(0, MOST - 1) : names;
  const table = new Map(shown.map((name, index) => [name, `var(--c${index})`]));
  const entries = shown.map((name) => ({ name, colour: table.get(name) }));
  if (names.length > shown.length) entries.push({ name: `${names.length - shown.length} others`, colour: "var(--c-other)" });
  return { colour: (plan) => table.get(kind(plan)) ?? "var(--c-other)", entries };
}

const KINDS = {
  backend: (plan) => plan.backend,
  strategy: (plan) => plan.strategy,
  reason: (plan) => plan.over.join(", ") || "fits",
};
