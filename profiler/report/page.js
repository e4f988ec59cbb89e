// Moves the deadline: looks the choice up (it was made in Python), says it, marks it, and sorts the table.
"use strict";

const tip = document.getElementById("tip");

function duration(ms) { // as profiler/report/words.py writes it
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  const s = ms / 1000;
  return `${s.toFixed(s < 9.995 ? 2 : s < 99.95 ? 1 : 0)} s`;
}

function deadline(ms) { // a duration that was given, without zeros that say nothing
  return duration(ms).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");
}

function say(element, text) { // `**` sets in bold; a number stays on its unit's line
  element.replaceChildren(...text.replace(/(\d) (ms|s|%)/g, "$1\u00a0$2").split("**").map((part, index) => {
    if (index % 2 === 0) return document.createTextNode(part);
    const strong = document.createElement("strong");
    strong.textContent = part;
    return strong;
  }));
}

function showTip(_, event, item, text) { // lines, as chart.py gives them, joined by Vega-Lite
  tip.hidden = !text;
  if (!text) return;
  tip.replaceChildren(...text.split("\n").map((line) => {
    const div = document.createElement("div");
    div.textContent = line;
    return div;
  }));
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 14 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? event.clientY + 14 : event.clientY - 14 - tip.offsetHeight}px`;
}

async function section(root, data) {
  const slider = root.querySelector(".slider");
  const exact = root.querySelector(".deadline");
  const scale = Math.log(data.high_ms / data.low_ms);
  const views = await Promise.all([...root.querySelectorAll(".chart")].map(async (container) => {
    const spec = data.charts[container.dataset.chart];
    // `ast`: expressions are interpreted, which the page's own policy (no eval) demands.
    const options = { renderer: "svg", actions: false, ast: true, tooltip: showTip, defaultStyle: false };
    return (await vegaEmbed(container, spec, options)).view;
  }));

  function show(ms) {
    const step = data.steps.findLast((one) => one.from_ms <= ms);
    const late = duration(Math.max(0, step.compute_tail_ms - ms));
    const fill = (text) => text.replaceAll("{deadline}", deadline(ms)).replaceAll("{too_late}", late);
    say(root.querySelector(".run"), fill(step.run));
    say(root.querySelector(".usual"), fill(step.advice));
    for (const view of views) {
      view.signal("deadline_ms", ms).signal("system", step.system).signal("compute", step.compute).runAsync();
    }
    for (const row of root.querySelectorAll("[data-point]")) {
      const id = Number(row.dataset.point);
      row.classList.toggle("is-ours", id === step.system);
      row.classList.toggle("is-advice", id === step.compute && id !== step.system);
    }
    slider.value = 1000 * Math.log(ms / data.low_ms) / scale;
    slider.setAttribute("aria-valuetext", deadline(ms));
  }

  slider.addEventListener("input", () => {
    const ms = data.low_ms * Math.exp(scale * slider.value / 1000);
    const digits = 10 ** Math.max(0, Math.floor(Math.log10(ms)) - 2); // three digits are plenty
    exact.value = Math.max(1, Math.round(ms / digits) * digits);
    show(Number(exact.value));
  });
  exact.addEventListener("input", () => { if (exact.value > 0) show(Number(exact.value)); });
  show(data.deadline_ms);
}

function sortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const sort = () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        return x - y || (isNaN(x - y) ? x.localeCompare(y) : 0);
      });
      body.append(...(descending ? rows.reverse() : rows));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

const sections = JSON.parse(document.getElementById("data").textContent);
document.querySelectorAll(".task").forEach((root, index) => section(root, sections[index]));
document.querySelectorAll(".sortable").forEach(sortable);
