// The dashboard's page: figures from the server, over its WebSocket or by asking for them, as tiles, charts and tables.
//
//   words    how figures are written        Feed  when which figures come, and what is said if they do not
//   figures  -> tiles, columns, rows        Page  the document
//
// One file without imports, so that hashed names of static files cannot take apart what belongs together. uPlot comes
// before it, as a script of its own.

// --- words ---------------------------------------------------------------------------------------------------------

export const MISSING = "–";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A share as a percentage that never rounds a loss away: 0.99996 is not 100 %. */
export function percent(share) {
  if (share === null || share === undefined) return MISSING;
  if (share === 1 || share === 0) return `${share * 100} %`;
  const digits = Math.abs(share) > 0.99 && share < 1 ? 3 : 1;
  const factor = 10 ** (digits + 2);
  return `${(Math.floor(share * factor + 1e-9) / 10 ** digits).toFixed(digits)} %`;
}

/** Seconds, in the unit that people would use. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return MISSING;
  if (seconds < 1) return `${short.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${short.format(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${short.format(seconds / 3600)} h`;
  return `${short.format(seconds / 86400)} d`;
}

export function bytes(size) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = size < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  return `${short.format(size / 1024 ** power)} ${units[power]}`;
}

/** A value of a chart, by its unit. */
export function written(unit, value) {
  if (value === null || value === undefined) return MISSING;
  if (unit === "share") return percent(value);
  if (unit === "seconds") return duration(value);
  if (unit === "rate") return `${short.format(value)}/s`;
  return Number.isInteger(value) ? grouped.format(value) : short.format(value);
}

/** The same, short enough for an axis. */
export const marked = (unit, value) => (unit === "count" || unit === "rate" ? compact.format(value) : written(unit, value));

const two = (number) => String(number).padStart(2, "0");

/** Seconds since 1970 in the browser's time; with the day where points are an hour or more apart. */
export function moment(seconds, step) {
  const time = new Date(seconds * 1000);
  const clock = `${two(time.getHours())}:${two(time.getMinutes())}`;
  if (step < 60) return `${clock}:${two(time.getSeconds())}`;
  return step < 3600 ? clock : `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${clock}`;
}

/** For an axis: the time of day, or the day where it begins. */
export function tick(seconds) {
  const time = new Date(seconds * 1000);
  const isDay = time.getHours() === 0 && time.getMinutes() === 0;
  return isDay ? `${two(time.getMonth() + 1)}-${two(time.getDate())}` : `${two(time.getHours())}:${two(time.getMinutes())}`;
}

// --- figures -> what is shown --------------------------------------------------------------------------------------

const SWEEP_LATE_SECONDS = 900; // a sweep is due every minute
const MOST_NAMED = 5; // in a tile
const BELLS_MANY = 0.1; // a second, as the alert has it

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const tile = (id, label, value, note = "", level = "quiet") => ({ id, label, value, note, level });
const level = (isBad, isDoubtful = false) => (isBad ? "bad" : isDoubtful ? "warn" : "ok");

/** What is seen at a glance: {id, label, value, note, level}; level is "ok", "warn", "bad" or "quiet". */
export function tiles(figures) {
  const { store, delivery, latency, totals, upkeep, at } = figures;
  const least = store.is_complete ? "" : "at least; not everything was counted";
  const { range, month, objective } = delivery;
  const isBelow = range.ratio !== null && range.ratio < objective;
  const left = month.budget_left;
  const sweptFor = upkeep.swept_at === null ? null : Math.max(0, at - upkeep.swept_at);
  const seconds = sum(figures.times.map((_, number) => lengthOf(figures, number)));
  const isDeaf = totals.bell_missed / Math.max(1, seconds) > BELLS_MANY;
  return [
    tile("waiting", "Waiting", grouped.format(store.messages), least || bytes(store.bytes)),
    tile("oldest", "Oldest waiting", duration(store.oldest_seconds), store.oldest_seconds === null ? "nothing waits" : ""),
    tile("delivered", "Delivered", percent(range.ratio), `objective ${percent(objective)}`, range.ratio === null ? "quiet" : level(isBelow)),
    tile("budget", "Error budget left", percent(left), `${grouped.format(month.lost)} lost in 30 days`, left === null ? "quiet" : level(left <= 0, left < 0.25)),
    tile("ack", "Acknowledged, p99", duration(latency.ack.p99), "from sending, while connected"),
    tile("connections", "Connected clients", grouped.format(store.connections), ""),
    tile("servers", "Servers alive", grouped.format(store.servers), store.servers ? "" : "no server holds connections", level(!store.servers)),
    breakerTile(figures.breaker, totals.breaker_opened),
    tile("queueing", "Queueing", figures.is_off ? "off" : "on", figures.is_off ? "switched off by an operator" : "", level(figures.is_off)),
    ...rolloutTiles(figures),
    tile("sweep", "Last sweep", sweptFor === null ? "never seen" : `${duration(sweptFor)} ago`, `${grouped.format(upkeep.expired)} expired and not removed`, level(sweptFor === null || sweptFor > SWEEP_LATE_SECONDS)),
    tile("bells", "Bells missed", grouped.format(totals.bell_missed), "found by the poll, in this range", level(isDeaf, totals.bell_missed > 0)),
    tile("letters", "Dead letters", grouped.format(store.dead_letters), `${grouped.format(totals.dead)} dead in this range`, level(false, totals.dead > 0)),
  ];
}

/** One tile, as long as the kill switch is pulled or a policy has queues that are not durable; otherwise none. */
function rolloutTiles({ is_off: isOff, rollout }) {
  if (!isOff && !rollout.length) return [];
  const alike = new Map(); // a policy of a user's says what the default one says, unless it says something else
  for (const each of rollout) {
    const found = alike.get(standing(each) + exceptions(each)) ?? { ...each, names: [] };
    alike.set(standing(each) + exceptions(each), found);
    found.names.push(each.policy);
  }
  const groups = [...alike.values()];
  const isOne = groups.length === 1 && !isOff;
  const value = isOff ? "kill switch" : isOne ? standing(groups[0]) : `${rollout.length} policies`;
  const notes = groups.map((each) => firstOf(each.names, ", ") + (isOne ? "" : `: ${standing(each)}`) + exceptions(each));
  return [tile("rollout", "Rollout", value, firstOf(notes, "; "), level(isOff, true))];
}

const standing = ({ percent: share, is_shadow: isShadow }) => `${short.format(share)} %${isShadow ? " in shadow" : ""}`;
const exceptions = ({ allow, deny }) =>
  allow || deny ? ` (${[allow && `${allow} allowed`, deny && `${deny} denied`].filter(Boolean).join(", ")})` : "";
const firstOf = (texts, between) =>
  texts.slice(0, MOST_NAMED).join(between) + (texts.length > MOST_NAMED ? `${between}and ${texts.length - MOST_NAMED} more` : "");

/** Of the process that answers. Also there when the store does not answer. */
export function breakerTile(breaker, opened = null) {
  const notes = [];
  if (breaker.forced_until !== null) notes.push(`forced until ${moment(breaker.forced_until, 60)}`);
  if (opened !== null) notes.push(`opened ${grouped.format(opened)} times in all processes`);
  return tile("breaker", "Breaker", breaker.state.replace("_", " "), notes.join("; "), level(breaker.state === "open", breaker.state !== "closed" || opened > 0));
}

/** For how many seconds a step is: the last one may have only begun. */
const lengthOf = (figures, number) => Math.max(1, Math.min(figures.step, figures.at - figures.times[number]));

/** The classes of age, in words. */
export function ageLabels(bounds) {
  const words = bounds.map((bound) => (bound < 3600 ? `${bound / 60} min` : bound < 86400 ? `${bound / 3600} h` : `${bound / 86400} d`));
  return [`< ${words[0]}`, ...words.slice(1).map((word) => `< ${word}`), `≥ ${words.at(-1)}`];
}

/** What uPlot draws for a chart: the horizontal values, then one array for each series. */
export function columns(chart, figures) {
  if (chart.id === "ages") {
    const priorities = Object.values(figures.ages.by_priority);
    const numbers = figures.ages.bounds.map((_, number) => number);
    numbers.push(numbers.length);
    return [numbers, numbers.map((number) => sum(priorities.map((counts) => counts[number])))];
  }
  const objective = figures.times.map(() => figures.delivery.objective);
  return [figures.times, ...Object.keys(chart.series).map((name) => (name === "objective" ? objective : figures.series[name]))];
}

/** The same as a table: {head, body}, both of texts; the newest first. */
export function table(chart, figures) {
  if (chart.id === "ages") return ageTable(figures.ages);
  const [times, ...series] = columns(chart, figures);
  const body = times.map((time, number) => [moment(time, figures.step), ...series.map((values) => written(chart.unit, values[number]))]);
  return { head: ["From", ...Object.values(chart.series)], body: body.reverse() };
}

function ageTable({ bounds, by_priority: counts }) {
  const labels = ageLabels(bounds);
  const body = labels.map((label, number) => [label, ...Object.values(counts).map((some) => grouped.format(some[number]))]);
  return { head: ["Age", ...Object.keys(counts)], body };
}

/** One sentence on a chart, for those who do not see it: the last value of each series, and the highest. */
export function sentence(chart, figures) {
  const [times, ...series] = columns(chart, figures);
  const labels = chart.id === "ages" ? ageLabels(figures.ages.bounds) : times;
  return Object.values(chart.series)
    .map((label, number) => {
      const values = series[number].filter((value) => value !== null);
      if (!values.length) return `${label}: nothing`;
      const most = written(chart.unit, Math.max(...values));
      if (chart.id === "ages") return labels.map((age, of) => `${age}: ${grouped.format(series[0][of])}`).join(", ");
      return `${label}: last ${written(chart.unit, values.at(-1))}, highest ${most}`;
    })
    .join("; ");
}

const ENDS = {
  accepted: "accepted", acked: "acknowledged", transmitted: "transmitted", superseded: "superseded by a newer one",
  expired: "lost: expired", dropped: "lost: dropped", dead: "lost: delivered too often", withheld: "withheld from their clients",
  left_out: "left out of replays", missed: "missed in shadow mode", unconfirmed: "unconfirmed in shadow mode", merged: "copies merged", duplicate: "sends repeated with a key",
  rejected_full: "refused: queue full", rejected_too_large: "refused: too large", rejected_unavailable: "refused: store unavailable",
  connected: "connections that began",
};

export const totalsTable = ({ totals }) => ({
  head: ["", "messages"],
  body: Object.entries(ENDS).map(([name, label]) => [label, grouped.format(totals[name])]),
});

export const serversTable = ({ servers }) => ({
  head: ["Server", "Process", "Clients", "Heard of"],
  body: servers.map(({ host, pid, connections, heard_seconds: heard }) => [host, String(pid), grouped.format(connections), `${duration(heard)} ago`]),
});

export const worstTable = ({ worst }) => ({
  head: ["Queue", "Messages", "Size", "Oldest"],
  body: worst.map(({ queue, messages, bytes: size, oldest_seconds: oldest }) => [queue, grouped.format(messages), bytes(size), duration(oldest)]),
});

// --- when figures come ---------------------------------------------------------------------------------------------

export const POLL_MS = 10_000; // between two questions without a WebSocket
export const SILENT_MS = 25_000; // a WebSocket that says nothing for so long is given up
export const STALE_MS = 30_000; // older figures are said to be old
const FIRST_MS = 2_000; // the WebSocket has so long for its first figures; then the page asks by itself
const RETRIES_MS = [1_000, 5_000, 15_000, 30_000]; // of a WebSocket that was open before
const NO_ROUTE_MS = [60_000, 300_000, 600_000]; // of one that never was: there may be no route for it
const REFUSED = [4401, 4403];

/**
 * Has figures come while the page is seen and not paused. Decides; ``world`` does:
 *
 *   open({opened(), message(text), closed(code)}) -> {send(text), close()}   ask(range) -> Promise of {status, body}
 *   later(ms, call) -> a function that forgets it                     now() -> milliseconds
 *   figures(figures)   state({mode, problem, excuse, at})
 *
 * ``mode``: "loading", "live", "polling", "paused" or "refused".
 */
export class Feed {
  constructor(world, range) {
    this.world = world;
    this.range = range;
    this.mode = "paused";
    this.problem = "";
    this.excuse = null;
    this.at = null;
    this.socket = null;
    this.failures = 0;
    this.hasBeenOpen = false;
    this.timers = {};
    this.asked = 0; // answers to earlier questions count no more
  }

  resume() {
    if (this.mode !== "paused") return;
    this.#become("loading");
    this.#connect();
    this.#after("poll", FIRST_MS, () => this.#poll());
  }

  pause() {
    if (this.mode === "refused") return;
    this.#stop();
    this.#become("paused");
  }

  choose(range) {
    if (range === this.range) return;
    this.range = range;
    this.asked += 1;
    if (this.mode === "paused" || this.mode === "refused") return;
    if (this.mode === "live") this.#request();
    else this.#poll();
  }

  #become(mode) {
    this.mode = mode;
    this.#say();
  }

  #say() {
    this.world.state({ mode: this.mode, problem: this.problem, excuse: this.excuse, at: this.at });
  }

  #after(name, ms, call) {
    this.#forget(name);
    this.timers[name] = this.world.later(ms, () => {
      delete this.timers[name];
      call();
    });
  }

  #forget(name) {
    this.timers[name]?.();
    delete this.timers[name];
  }

  #stop() {
    for (const name of Object.keys(this.timers)) this.#forget(name);
    this.asked += 1;
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }

  // --- the WebSocket ---

  #connect() {
    const socket = this.world.open({
      opened: () => {
        if (socket !== this.socket) return;
        this.hasBeenOpen = true;
        this.#request();
      },
      message: (text) => {
        if (socket === this.socket) this.#heard(text);
      },
      closed: (code) => {
        if (socket === this.socket) this.#lost(code);
      },
    });
    this.socket = socket;
  }

  #request() {
    this.socket.send(JSON.stringify({ range: this.range }));
    this.#after("silent", SILENT_MS, () => this.#giveUp());
  }

  #heard(text) {
    const body = JSON.parse(text);
    this.failures = 0;
    this.#forget("poll");
    this.asked += 1;
    this.mode = "live";
    if (body.range === undefined || body.range === this.range) this.#take(body);
    this.#request();
  }

  #giveUp() {
    const { socket } = this;
    this.#lost(1006);
    socket.close();
  }

  #lost(code) {
    this.socket = null;
    this.#forget("silent");
    if (REFUSED.includes(code)) {
      this.#refuse();
      return;
    }
    const pauses = this.hasBeenOpen ? RETRIES_MS : NO_ROUTE_MS;
    this.#after("connect", pauses[Math.min(this.failures, pauses.length - 1)], () => this.#connect());
    this.failures += 1;
    this.#poll();
  }

  #refuse() {
    this.#stop();
    this.problem = "You are logged out, or may not see this any more. Load the page again.";
    this.#become("refused");
  }

  // --- asking ---

  /** Once, and again some time after the answer: a slow server is not asked faster than it answers. */
  async #poll() {
    const number = ++this.asked;
    this.#forget("poll");
    let answer;
    try {
      answer = await this.world.ask(this.range);
    } catch {
      answer = { status: 0, body: { error: "The server cannot be reached." } };
    }
    if (number !== this.asked) return; // paused, another range, or a WebSocket that was quicker
    if (answer.status === 401 || answer.status === 403) {
      this.#refuse();
      return;
    }
    this.#after("poll", POLL_MS, () => this.#poll());
    this.mode = "polling";
    this.#take(answer.body ?? { error: `The server answered with ${answer.status}.` });
  }

  #take(body) {
    if (body.error !== undefined) {
      this.problem = body.error;
      this.excuse = body.breaker ?? null;
    } else {
      this.problem = "";
      this.excuse = null;
      this.at = this.world.now();
      this.world.figures(body);
    }
    this.#say();
  }
}

/** What the page says of a state of the Feed, at a time in milliseconds: {text, level, problem}. */
export function report({ mode, problem, at }, now) {
  const age = at === null ? null : now - at;
  const isOld = age !== null && age > STALE_MS && mode !== "paused";
  const seen = at === null ? "" : `, figures of ${moment(at / 1000, 1)}`;
  const words = { loading: "Loading", live: "Live", polling: "Every 10 seconds", paused: "Paused", refused: "Ended" };
  const old = isOld ? `The figures below are ${duration(Math.round(age / 1000))} old.` : "";
  const isDown = problem !== "" || isOld;
  return { text: words[mode] + seen, level: isDown ? "bad" : "quiet", problem: [problem, old].filter(Boolean).join(" ") };
}

// --- the document --------------------------------------------------------------------------------------------------

const HEIGHT = 190;
const DASHES = [[], [8, 4], [2, 3]];
const BORDERS = ["solid", "dashed", "dotted"]; // the same in the legend
const COUNTED = ["losses", "refused", "bells", "upkeep"]; // by the step, so drawn as steps

function element(name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Puts a table in the place of what was there; a cell may become a link. The scrolled place stays. */
function showTable(place, { head, body }, empty, linkOf = () => null) {
  if (!body.length) {
    place.replaceChildren(element("p", { textContent: empty }));
    return;
  }
  const isNumber = (number) => (number ? "netra-number" : "");
  const cell = (text, number) => {
    const href = number ? null : linkOf(text);
    const content = href === null ? text : element("a", { href, textContent: text });
    return element(number ? "td" : "th", { className: isNumber(number), ...(number ? {} : { scope: "row" }) }, [content]);
  };
  const heads = head.map((text, number) => element("th", { textContent: text, scope: "col", className: isNumber(number) }));
  const rows = body.map((cells) => element("tr", {}, cells.map(cell)));
  const { scrollTop } = place;
  place.replaceChildren(element("table", {}, [element("thead", {}, [element("tr", {}, heads)]), element("tbody", {}, rows)]));
  place.scrollTop = scrollTop;
}

/** One chart with its table. */
class Drawing {
  constructor(root, chart) {
    this.root = root;
    this.chart = chart;
    this.figure = root.querySelector(`#netra-chart-${chart.id}`);
    this.place = this.figure.querySelector(".netra-plot");
    this.details = this.figure.querySelector("details");
    this.details.addEventListener("toggle", () => this.#showTable());
    new ResizeObserver(() => this.#fit()).observe(this.place);
  }

  show(figures) {
    this.figures = figures;
    if (this.plot === undefined) this.#make();
    else this.plot.setData(columns(this.chart, figures));
    this.figure.querySelector(".netra-says").textContent = sentence(this.chart, figures);
    this.#showTable();
  }

  /** With the colours of a theme that has changed. */
  again() {
    this.plot?.destroy();
    this.plot = undefined;
    if (this.figures) this.show(this.figures);
  }

  #make() {
    this.plot = new uPlot(this.#options(), columns(this.chart, this.figures), this.place);
  }

  #showTable() {
    if (this.details.open && this.figures) {
      showTable(this.details.querySelector(".netra-scroll"), table(this.chart, this.figures), "Nothing");
    }
  }

  #fit() {
    const width = this.place.clientWidth;
    if (this.plot !== undefined && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  #options() {
    const { chart } = this;
    const isBars = chart.id === "ages";
    const colour = (name) => getComputedStyle(this.root).getPropertyValue(name).trim();
    const [ink, grid] = [colour("--body-quiet-color"), { stroke: colour("--hairline-color"), width: 1 }];
    const axis = { stroke: ink, grid, ticks: grid, font: "11px sans-serif" };
    const labels = () => ageLabels(this.figures.ages.bounds);
    const ageTick = (at) => labels()[at]?.replace(/ (?=[a-z])/, "\n") ?? ""; // narrow enough for a phone
    const when = (value) => (isBars ? labels()[value] ?? "" : moment(value, this.figures.step));
    const lines = Object.values(chart.series).map((label, number) => ({
      label,
      stroke: colour(`--netra-${number + 1}`),
      width: 1.5,
      dash: DASHES[number],
      value: (_, value) => written(chart.unit, value),
      ...(COUNTED.includes(chart.id) ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
      ...(isBars ? { fill: colour("--netra-1"), paths: uPlot.paths.bars({ size: [0.7, 60] }), points: { show: false } } : {}),
    }));
    return {
      width: Math.max(1, this.place.clientWidth),
      height: HEIGHT,
      legend: { markers: { width: 2, dash: (_, number) => BORDERS[number - 1] } },
      cursor: { drag: { x: false, y: false }, ...(isBars ? {} : { sync: { key: "netra" } }) },
      scales: {
        x: isBars ? { time: false, range: (_, low, high) => [low - 0.5, high + 0.5] } : {},
        y: { range: (_, low, high) => heights(chart.unit, low, high) },
      },
      axes: [
        { ...axis, space: isBars ? 10 : 60, ...(isBars ? { splits: () => labels().map((_, number) => number) } : {}), values: (_, splits) => splits.map((at) => (isBars ? ageTick(at) : tick(at))) },
        { ...axis, size: 62, values: (_, splits) => splits.map((value) => marked(chart.unit, value)) },
      ],
      series: [{ label: isBars ? "age" : "from", value: (_, value) => (value === null ? MISSING : when(value)) }, ...lines],
    };
  }
}

/** From where to where a chart's values are drawn. A share has its 100 % at the top, everything else its 0 at the bottom. */
export function heights(unit, low, high) {
  if (unit === "share") {
    const lowest = low ?? 0.999;
    return [Math.max(0, lowest - Math.max(0.0002, (1 - lowest) * 0.1)), 1];
  }
  return [0, high ? high * 1.1 : 1];
}

class Page {
  constructor(root) {
    this.root = root;
    const charts = JSON.parse(document.getElementById("netra-charts").textContent);
    this.drawings = charts.map((chart) => new Drawing(root, chart));
    this.isHeld = false; // paused by whoever looks
    this.state = { mode: "loading", problem: "", excuse: null, at: null };
    this.feed = new Feed(this.#world(), root.dataset.range);
    this.#listen();
    this.#see();
    setInterval(() => this.#say(), 1000);
  }

  #world() {
    const { figures: url, socket: path } = this.root.dataset;
    return {
      open: (on) => openSocket(path, on),
      ask: async (range) => {
        const answer = await fetch(`${url}?range=${encodeURIComponent(range)}`, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(SILENT_MS) });
        const isJson = (answer.headers.get("Content-Type") ?? "").startsWith("application/json");
        return { status: answer.status, body: isJson ? await answer.json() : null };
      },
      later: (ms, call) => {
        const id = setTimeout(call, ms);
        return () => clearTimeout(id);
      },
      now: () => Date.now(),
      figures: (figures) => this.#show(figures),
      state: (state) => {
        this.state = state;
        this.#say();
      },
    };
  }

  #listen() {
    document.addEventListener("visibilitychange", () => this.#see());
    this.root.querySelector("#netra-pause").addEventListener("click", ({ currentTarget: button }) => {
      this.isHeld = !this.isHeld;
      button.setAttribute("aria-pressed", String(this.isHeld));
      this.#see();
    });
    for (const button of this.root.querySelectorAll(".netra-ranges button")) {
      button.addEventListener("click", () => this.#choose(button.dataset.range));
    }
    const again = () => this.drawings.forEach((drawing) => drawing.again());
    new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  }

  #see() {
    if (document.hidden || this.isHeld) this.feed.pause();
    else this.feed.resume();
  }

  #choose(range) {
    for (const button of this.root.querySelectorAll(".netra-ranges button")) {
      button.setAttribute("aria-pressed", String(button.dataset.range === range));
    }
    history.replaceState(null, "", `?range=${range}`);
    this.feed.choose(range);
  }

  #show(figures) {
    this.#showTiles(tiles(figures));
    for (const drawing of this.drawings) drawing.show(figures);
    const { queues } = this.root.dataset;
    const linkOf = (queue) => (queues && !queue.startsWith("#") ? `${queues}?q=${encodeURIComponent(queue)}` : null);
    showTable(this.#find("servers"), serversTable(figures), "No server is alive.");
    showTable(this.#find("worst"), worstTable(figures), "Nothing waits.", linkOf);
    showTable(this.#find("losses"), totalsTable(figures), "Nothing");
    this.root.dataset.shown = figures.range;
  }

  #find(name) {
    return this.root.querySelector(`#netra-${name}`);
  }

  #showTiles(all) {
    const made = all.map(({ id, label, value, note, level: of }) => {
      const values = element("dd", { className: "netra-value", textContent: value });
      const notes = element("dd", { className: "netra-note", textContent: note });
      const whole = element("div", { id: `netra-tile-${id}` }, [element("dt", { textContent: label }), values, notes]);
      whole.dataset.level = of;
      return whole;
    });
    this.#find("tiles").replaceChildren(...made);
  }

  #say() {
    const { text, level: of, problem } = report(this.state, Date.now());
    const [place, alert] = [this.#find("state"), this.#find("problem")];
    if (place.textContent !== text) place.textContent = text;
    place.dataset.level = of;
    this.root.dataset.mode = this.state.mode;
    alert.hidden = problem === "";
    if (alert.textContent !== problem) alert.textContent = problem;
    if (this.state.excuse) this.#showExcuse(breakerTile(this.state.excuse));
  }

  /** The breaker's state is known although the store does not answer. */
  #showExcuse({ value, note, level: of }) {
    const place = this.root.querySelector("#netra-tile-breaker");
    if (place === null) return;
    place.dataset.level = of;
    place.querySelector(".netra-value").textContent = value;
    place.querySelector(".netra-note").textContent = note;
  }
}

function openSocket(path, on) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.addEventListener("open", () => on.opened());
  socket.addEventListener("message", ({ data }) => on.message(data));
  socket.addEventListener("close", ({ code }) => on.closed(code));
  return { send: (text) => socket.send(text), close: () => socket.close() };
}

const root = globalThis.document?.getElementById("netra-dashboard");
if (root) new Page(root);
