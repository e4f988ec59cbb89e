// Which view is shown, and what all of them share: the connection, the key, the theme.

import { ApiError, key } from "./api.js";
import { announce, byId, setText } from "./dom.js";
import { Fleet } from "./fleet.js";
import { Frontier } from "./frontier.js";
import { Poll } from "./poll.js";
import { Request } from "./request.js";
import { Requests } from "./requests.js";

const TITLES = { fleet: "Fleet", frontier: "Frontier", requests: "Requests", request: "Request" };
const fleet = new Fleet();
const views = { fleet, frontier: new Frontier(fleet), requests: new Requests(fleet), request: new Request() };
const poll = new Poll(() => views[shown].refresh(), connected, failed);
let shown = null;

/** `#frontier?model=m` → ["frontier", "", parameters]; `#request/12` → ["request", "12", …]. */
function address() {
  const [path, query] = location.hash.slice(1).split("?");
  const [name, rest = ""] = path.split("/");
  return [name in views ? name : "fleet", rest, new URLSearchParams(query)];
}

function show() {
  if (location.hash === "#main") return;
  const [name, rest, parameters] = address();
  const moved = shown !== null && shown !== name;
  shown = name;
  for (const [each, title] of Object.entries(TITLES)) byId(`view-${each}`).hidden = each !== name;
  document.title = `${TITLES[name]} · paretoproxy`;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.view === name || (name === "request" && link.dataset.view === "requests");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  views[name].open(rest, parameters);
  poll.start();
  if (moved) {
    byId(`${name}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function connected() {
  const line = byId("connection");
  if (line.dataset.state !== "ok") announce("Connected");
  line.dataset.state = "ok";
  setText(line, "live");
  byId("forget").hidden = key.get() === null;
}

function failed(error) {
  if (error instanceof ApiError && error.status === 401) {
    askForKey();
    return;
  }
  const line = byId("connection");
  line.dataset.state = "lost";
  setText(line, error.message);
  if (!(error instanceof ApiError)) console.error(error);
}

function askForKey() {
  poll.stop();
  const dialog = byId("key-dialog");
  setText(byId("key-problem"), key.get() === null ? "" : "The proxy does not know this key.");
  key.forget();
  byId("forget").hidden = true;
  if (!dialog.open) dialog.showModal();
  byId("key").select();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key").value = "";
  byId("key-dialog").close();
  poll.start();
});
byId("key-dialog").addEventListener("cancel", (event) => event.preventDefault()); // nothing is to be seen without one
byId("forget").addEventListener("click", () => {
  key.forget();
  location.reload(); // what was shown with it goes too
});

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});

const THEMES = ["auto", "light", "dark"];

function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  localStorage.setItem("paretoproxy-theme", next);
  setText(byId("theme"), `Theme: ${next}`);
});
setText(byId("theme"), `Theme: ${theme()}`);

for (const view of Object.values(views)) view.changed = () => poll.now();
addEventListener("hashchange", show);
show();
