// A few lines beside the pointer.

import { byId, el } from "./dom.js";

export function showTip(x, y, lines) {
  const tip = byId("tip");
  tip.hidden = false;
  tip.replaceChildren(...lines.map((line) => el("div", {}, line)));
  const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8);
  const below = y + 14 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, below ? y + 14 : y - 14 - tip.offsetHeight)}px`;
}

export function hideTip() {
  byId("tip").hidden = true;
}
