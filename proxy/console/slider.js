// A range over a logarithmic scale whose upper end means "no limit".

import { setText } from "./dom.js";

const STEPS = 200; // as in index.html

export class LogSlider {
  /** `say`: a value as text; `changed`: called when the user has moved it. */
  constructor(input, say, changed) {
    Object.assign(this, { input, say, value: null, low: 1, high: 10 });
    this.output = input.parentElement.querySelector("output");
    input.addEventListener("input", () => {
      this.value = this.at(Number(input.value));
      this.show();
      changed();
    });
  }

  at(step) {
    if (step >= STEPS) return null;
    return Number((this.low * (this.high / this.low) ** (step / (STEPS - 1))).toPrecision(2));
  }

  /** The values that its ends stand for; null: nothing to limit, with the reason. */
  range(low, high, reason = "") {
    const usable = low !== null && high > 0;
    this.input.disabled = !usable;
    this.reason = usable ? "" : reason;
    if (usable) Object.assign(this, { low, high: Math.max(high, low * 1.5) });
    this.show(true);
  }

  set(value) {
    this.value = value;
    this.show(true);
  }

  show(move = false) {
    if (move) {
      const place = this.value === null ? STEPS : (STEPS - 1) * Math.log(this.value / this.low) / Math.log(this.high / this.low);
      this.input.value = Math.min(STEPS, Math.max(0, Math.round(place)));
    }
    const text = this.reason || (this.value === null ? "no limit" : this.say(this.value));
    setText(this.output, text);
    this.input.setAttribute("aria-valuetext", text);
  }
}
