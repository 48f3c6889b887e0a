import { QueueClient } from "./client.js";

const $ = (id) => document.getElementById(id);
const page = $("page").dataset;
const SHOWN = 200;
const RUNS = 5;

// What arrived, per run: kept over a reload, as an application would keep its own state. A login has its own.
const key = `example.${page.user}`;
const state = JSON.parse(sessionStorage.getItem(key) ?? "null") ?? { received: 0, repeats: 0, runs: [] };
const save = () => sessionStorage.setItem(key, JSON.stringify(state));

function noteStep({ run: id, step, of }, replayed) {
  let run = state.runs.find((known) => known.id === id);
  if (!run) {
    run = { id, of, first: step, next: step, count: 0, twice: 0, outOfOrder: 0, seen: {} }; // a second tab joins later
    if (!replayed) $("notice").textContent = ""; // it was about what waited before this run
    state.runs = [run, ...state.runs].slice(0, RUNS);
  }
  if (run.seen[step]) run.twice += 1;
  else run.count += 1;
  run.seen[step] = true;
  if (step !== run.next) run.outOfOrder += 1;
  run.next = step + 1;
}

function verdict(run) {
  if (!run) return ["none", "No run yet."];
  const order = run.outOfOrder ? "not in order" : "in order";
  const twice = run.twice ? `${run.twice} twice` : "none twice";
  const isGood = !run.outOfOrder && !run.twice;
  const expected = run.of - run.first + 1;
  const kind = !isGood ? "bad" : run.count === expected ? "good" : "running";
  const joined = run.first > 1 ? ` (this tab joined at step ${run.first})` : "";
  return [kind, `${run.count} of ${expected} steps, ${order}, ${twice}${joined}`];
}

function show() {
  const [kind, text] = verdict(state.runs[0]);
  $("verdict").dataset.verdict = kind;
  $("verdict").textContent = text;
  $("received").textContent = state.received;
  $("repeats").textContent = state.repeats;
}

function list(data, message) {
  const item = document.createElement("li");
  const isStep = data?.type === "agent.step";
  item.textContent = isStep ? `Run ${data.run}: step ${data.step} of ${data.of}` : (data?.text ?? JSON.stringify(data));
  item.className = data?.type ?? "";
  if (message.replayed) {
    const mark = document.createElement("span");
    mark.className = "replayed";
    mark.textContent = " replayed";
    item.append(mark);
  }
  $("messages").prepend(item);
  while ($("messages").children.length > SHOWN) $("messages").lastElementChild.remove();
}

const client = new QueueClient(`${location.origin.replace(/^http/, "ws")}/ws/notifications/`, {
  onMessage(data, message) {
    state.received += 1;
    if (data?.type === "agent.step") noteStep(data, message.replayed);
    list(data, message);
    save();
    show();
  },
  onRepeat() {
    state.repeats += 1;
    save();
    show();
  },
  onState(name, detail) {
    $("state").dataset.state = name;
    $("state").textContent = name;
    $("cut").disabled = name === "closed" || name === "refused";
    $("reconnect").disabled = name !== "closed" && name !== "refused";
    if (name === "replaying" && detail.waiting) {
      $("notice").textContent = detail.waiting === 1 ? "1 message was waiting." : `${detail.waiting} messages were waiting.`;
    }
    if (name === "refused") $("notice").textContent = `The server refused: ${detail.code} ${detail.reason}`;
  },
  onLost({ expired, dropped }) {
    $("notice").textContent = `Removed before they arrived: ${expired} expired, ${dropped} dropped.`;
  },
});

async function post(url, fields = []) {
  const body = new URLSearchParams(fields);
  try {
    const response = await fetch(url, { method: "POST", body, headers: { "X-CSRFToken": page.csrf } });
    if (!response.ok) $("notice").textContent = `The server answered ${response.status}.`;
  } catch {
    $("notice").textContent = "The server did not answer.";
  }
}

$("run").addEventListener("submit", (event) => {
  event.preventDefault();
  $("notice").textContent = "";
  post(page.start, new FormData(event.target));
});
$("urgent").addEventListener("click", () => post(page.urgent));
$("cut").addEventListener("click", () => client.cut());
$("reconnect").addEventListener("click", () => client.connect());

async function refreshDepth() {
  try {
    const response = await fetch(`${page.queue}?client=${client.clientId}`);
    if (response.ok) $("depth").textContent = (await response.json()).messages;
  } catch {
    $("depth").textContent = "unknown";
  }
  setTimeout(refreshDepth, 500);
}

show();
refreshDepth();
client.connect();
