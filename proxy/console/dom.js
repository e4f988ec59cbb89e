// Elements from data. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** `on`: listeners by event; children: nodes or strings, null is left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Only what changed is written: a selection in it survives. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Children of `container`, one per item, kept over updates by key, in the items' order. */
export function keyed(container, items, key, make, update) {
  const old = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let place = container.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let node = old.get(name);
    old.delete(name);
    if (node === undefined) {
      node = make(item);
      node.dataset.key = name;
    }
    update?.(node, item);
    if (node === place) place = place.nextElementSibling;
    else container.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

/** The options of a select, with the choice kept where it still exists. */
export function options(select, pairs) {
  const wanted = JSON.stringify(pairs);
  if (select.dataset.options === wanted) return;
  const chosen = select.value;
  select.replaceChildren(...pairs.map(([value, label]) => el("option", { value }, label)));
  select.dataset.options = wanted;
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

let announced = "";

/** Said politely by screen readers; the same words once. */
export function announce(text) {
  if (text === announced) return;
  announced = text;
  byId("announcer").textContent = text;
}
