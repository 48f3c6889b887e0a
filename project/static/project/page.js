import * as network from "./network.js";
import { NetraQueue } from "../netra_queue/client.js";
import { Tally } from "./tally.js";

const $ = (id) => document.getElementById(id);
const page = $("page").dataset;
const DRAW_MS = 50;
const ASK_MS = 500;
const KEEP_MS = 250;
const OTHERS_SHOWN = 20;

// --- what outlives a reload; a browser that forbids storage forgets it ---

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem("example"));
  } catch {
    return null;
  }
}

let isKept = true;
function keep() {
  if (isKept) return;
  isKept = true;
  try {
    sessionStorage.setItem("example", JSON.stringify(tally));
  } catch {
    // the page works without
  }
}

let tally = new Tally(kept());
addEventListener("pagehide", keep);
setInterval(keep, KEEP_MS);

// --- the queue ---

const queue = new NetraQueue(page.socket);
let asked = null; // the server's answer about its agents, without which no step can be placed
let until = null;

queue.onmessage = async (message) => {
  const { data } = message;
  if (data?.type !== "agent.step") return other(data, message.priority);
  if (tally.isNew) await asked;
  tally.step(data, message);
  drawSoon();
};

queue.addEventListener("repeat", () => {
  tally.repeats += 1;
  drawSoon();
});

queue.addEventListener("lost", ({ detail }) => {
  tally.losses(detail);
  drawSoon();
});

queue.addEventListener("state", ({ detail }) => {
  until = detail.until ?? null;
  if (detail.state === "replaying") greet(detail);
  if (detail.state === "closed" && detail.code) say(`The server refused: ${detail.code} ${detail.reason}`);
  drawSoon();
});

queue.addEventListener("error", ({ detail }) => say(`A message could not be handled: ${detail.error}`));

function greet({ queue: name, waiting }) {
  if (!tally.belongsTo(name)) {
    tally = new Tally();
    tally.queue = name;
    $("strip").replaceChildren();
  }
  if (tally.isNew) asked = ask();
  say(waiting ? `${waiting === 1 ? "1 message was" : `${waiting} messages were`} waiting.` : "");
}

// --- the server's side of the figures ---

async function ask() {
  const client = tally.queue?.split("/")[1] ?? "";
  try {
    const response = await fetch(`${page.queue}?client=${client}`);
    if (!response.ok) return;
    const { messages, by_priority, agents } = await response.json();
    tally.agentsAre(agents);
    $("depth").textContent = messages;
    for (const part of $("depths").children) part.style.flexGrow = by_priority[part.dataset.priority] ?? 0;
  } catch {
    $("depth").textContent = "?";
  }
  drawSoon();
}

setInterval(() => document.hidden || (tally.queue && ask()), ASK_MS);

async function post(url, fields = []) {
  try {
    const headers = { "X-CSRFToken": page.csrf };
    const response = await fetch(url, { method: "POST", body: new URLSearchParams(fields), headers });
    if (!response.ok) say(`The server answered ${response.status}.`);
  } catch {
    say("The server did not answer.");
  }
}

// --- drawing ---

const say = (text) => ($("notice").textContent = text);

let timer = null;
function drawSoon() {
  isKept = false;
  timer ??= setTimeout(draw, DRAW_MS);
}

function draw() {
  timer = null;
  const [kind, text] = tally.verdict;
  $("verdict").dataset.verdict = kind;
  $("verdict").textContent = text;
  for (const figure of ["sent", "received", "repeats", "lost"]) $(figure).textContent = tally[figure];
  $("page").dataset.client = tally.queue ?? "";
  $("state").dataset.state = queue.state;
  $("state").dataset.until = until ?? "";
  $("state").textContent = queue.state;
  drawSteps();
}

let isFollowing = true; // until somebody scrolls back
$("strip").addEventListener("scroll", ({ target }) => {
  isFollowing = target.scrollTop + target.clientHeight >= target.scrollHeight - 30;
});

function drawSteps() {
  const strip = $("strip");
  const drawn = Number(strip.lastElementChild?.dataset.count ?? 0);
  const fresh = tally.steps.slice(Math.max(0, tally.steps.length - (tally.count - drawn)));
  strip.append(...fresh.map((step, index) => tile(step, tally.count - fresh.length + index + 1)));
  while (strip.children.length > tally.steps.length) strip.firstElementChild.remove();
  if (isFollowing) strip.scrollTop = strip.scrollHeight;
}

function tile({ number, priority, replayed, agent, run }, count) {
  const item = document.createElement("li");
  Object.assign(item.dataset, { number, priority, agent, run, count });
  item.textContent = number;
  item.classList.toggle("replayed", replayed);
  item.title = `${agent}, ${priority}${replayed ? ", replayed" : ""}`;
  return item;
}

function other(data, priority) {
  const item = document.createElement("li");
  item.dataset.priority = priority;
  item.textContent = typeof data === "string" ? data : JSON.stringify(data);
  $("others").prepend(item);
  $("others").parentElement.hidden = false;
  if ($("others").children.length > OTHERS_SHOWN) $("others").lastElementChild.remove();
}

// --- the buttons ---

$("run").addEventListener("submit", (event) => {
  event.preventDefault();
  post(page.start, new FormData(event.target));
});
$("urgent").addEventListener("click", () => post(page.urgent));

function toggleNetwork() {
  const isCut = $("cut").getAttribute("aria-pressed") === "false";
  $("cut").setAttribute("aria-pressed", isCut);
  $("cut").textContent = isCut ? "Mend the network" : "Cut the network";
  if (isCut) network.cut();
  else network.mend();
}

const faults = {
  cut: toggleNetwork,
  half: network.halfOpen,
  reload: () => location.reload(),
  duplicate: () => open(location.href),
  restart: () => post(page.restart),
};
for (const [id, act] of Object.entries(faults)) {
  $(id)?.addEventListener("click", (event) => {
    $("what").textContent = event.target.title; // a finger does not hover
    act();
  });
}

draw();
