// The dashboard's script: what figures come to, and when they come.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import vm from "node:vm";

const FILE = new URL("../../netra_queue/static/netra_queue/dashboard/dashboard.js", import.meta.url);
const NAMES = `Feed, ageLabels, breakerTile, bytes, columns, duration, heights, moment, percent, report, sentence, table, tick, tiles,
  written, POLL_MS, SILENT_MS, STALE_MS`;
const code = `(() => {${readFileSync(FILE, "utf8").replace(/^export /gm, "")}\nreturn { ${NAMES} };})()`;
const page = new vm.Script(code, { filename: FILE.pathname }).runInThisContext();

// --- words ---

test("a share never hides a loss", () => {
  const said = [1, 0.99996, 0.9995, 0.999951, 0.99, 0.5, 0, -0.5, null].map(page.percent);
  assert.deepEqual(said, ["100 %", "99.996 %", "99.950 %", "99.995 %", "99.0 %", "50.0 %", "0 %", "-50.0 %", "–"]);
});

test("durations and sizes are in units that people would use", () => {
  const said = [0.0123, 0.9, 1, 90, 150, 7000, 7200, 90000, 200000, null].map(page.duration);
  assert.deepEqual(said, ["12.3 ms", "900 ms", "1 s", "90 s", "3 min", "117 min", "2 h", "25 h", "2.31 d", "–"]);
  assert.deepEqual([0, 1023, 1024, 5e6, 3e12, 1e18].map(page.bytes), ["0 bytes", "1,020 bytes", "1 KiB", "4.77 MiB", "2.73 TiB", "909,000 TiB"]);
});

test("moments have what tells them apart", () => {
  const at = new Date(2026, 0, 2, 3, 4, 5).getTime() / 1000;
  assert.deepEqual([10, 60, 7200].map((step) => page.moment(at, step)), ["03:04:05", "03:04", "2026-01-02 03:04"]);
  assert.deepEqual([page.tick(at), page.tick(new Date(2026, 0, 2).getTime() / 1000)], ["03:04", "01-02"]);
});

// --- figures ---

const zeros = { acked: 0, dead: 0, bell_missed: 0, breaker_opened: 0 };
const made = (changes = {}) => ({
  range: "1h", step: 10, at: 1000, times: [980, 990],
  series: { accepted: [1.5, 0], acked: [1, null], ratio: [0.5, null] },
  totals: zeros,
  latency: { ack: { p99: 0.25 } },
  delivery: { objective: 0.9995, range: { ratio: null, lost: 0 }, month: { ratio: null, lost: 0, budget_left: null } },
  store: { messages: 1234, bytes: 2048, oldest_seconds: 90, connections: 7, servers: 2, dead_letters: 0, is_complete: true },
  ages: { bounds: [60, 600, 3600, 21600, 86400], by_priority: { high: [1, 0, 0, 0, 0, 2], low: [3, 0, 0, 0, 0, 0] } },
  upkeep: { swept_at: 940, expired: 0 },
  breaker: { state: "closed", forced_until: null },
  is_off: false,
  rollout: [],
  ...changes,
});
const levels = (changes) => Object.fromEntries(page.tiles(made(changes)).map(({ id, level }) => [id, level]));
const tileOf = (id, changes) => page.tiles(made(changes)).find((tile) => tile.id === id);

test("what queues are to the store, while they are not all durable", () => {
  const half = { policy: "default", percent: 12.5, allow: 2, deny: 0, is_shadow: false };
  const dark = { policy: "room", percent: 100, allow: 0, deny: 1, is_shadow: true };
  const shown = (changes) => (({ value, note }) => [value, note])(tileOf("rollout", changes));
  assert.equal(tileOf("rollout"), undefined);
  assert.deepEqual(shown({ rollout: [half] }), ["12.5 %", "default (2 allowed)"]);
  assert.deepEqual(shown({ rollout: [dark] }), ["100 % in shadow", "room (1 denied)"]);
  assert.deepEqual(shown({ rollout: [half, dark] }), ["2 policies", "default: 12.5 % (2 allowed); room: 100 % in shadow (1 denied)"]);
  assert.deepEqual(shown({ is_off: true, rollout: [] }), ["kill switch", ""]);
  assert.deepEqual(shown({ is_off: true, rollout: [dark] }), ["kill switch", "room: 100 % in shadow (1 denied)"]);
  const many = Array.from({ length: 7 }, (_, number) => ({ ...half, policy: `p${number}`, allow: 0 }));
  assert.deepEqual(shown({ rollout: many }), ["12.5 %", "p0, p1, p2, p3, p4, and 2 more"]);
  const various = many.map((each, number) => ({ ...each, percent: number }));
  assert.deepEqual(shown({ rollout: various }), ["7 policies", "p0: 0 %; p1: 1 %; p2: 2 %; p3: 3 %; p4: 4 %; and 2 more"]);
  assert.deepEqual(shown({ rollout: [half, { ...half, policy: "b" }, dark] })[1], "default, b: 12.5 % (2 allowed); room: 100 % in shadow (1 denied)");
});

test("what is well is not marked", () => {
  assert.deepEqual(new Set(Object.values(levels())), new Set(["quiet", "ok"]));
  assert.equal(tileOf("waiting").value, "1,234");
  assert.equal(tileOf("sweep").value, "60 s ago");
});

for (const [name, changes, tile, level] of [
  ["a ratio below the objective", { delivery: { objective: 0.9995, range: { ratio: 0.9994 }, month: { budget_left: 0.5, lost: 1 } } }, "delivered", "bad"],
  ["a ratio at the objective", { delivery: { objective: 0.9995, range: { ratio: 0.9995 }, month: { budget_left: 0.5, lost: 1 } } }, "delivered", "ok"],
  ["little of the budget", { delivery: { objective: 0.9995, range: { ratio: 1 }, month: { budget_left: 0.2, lost: 1 } } }, "budget", "warn"],
  ["none of the budget", { delivery: { objective: 0.9995, range: { ratio: 1 }, month: { budget_left: 0, lost: 1 } } }, "budget", "bad"],
  ["no server", { store: { ...made().store, servers: 0 } }, "servers", "bad"],
  ["an open breaker", { breaker: { state: "open", forced_until: 2000 } }, "breaker", "bad"],
  ["a breaker that is tried", { breaker: { state: "half_open", forced_until: null } }, "breaker", "warn"],
  ["a breaker that was open", { totals: { ...zeros, breaker_opened: 1 } }, "breaker", "warn"],
  ["queueing that is off", { is_off: true }, "queueing", "bad"],
  ["the kill switch", { is_off: true }, "rollout", "bad"],
  ["a rollout", { rollout: [{ policy: "default", percent: 10, allow: 0, deny: 0, is_shadow: false }] }, "rollout", "warn"],
  ["a sweep that is late", { upkeep: { swept_at: 99, expired: 5 } }, "sweep", "bad"],
  ["no sweep at all", { upkeep: { swept_at: null, expired: 0 } }, "sweep", "bad"],
  ["a bell that was missed", { totals: { ...zeros, bell_missed: 1 } }, "bells", "warn"],
  ["many bells", { totals: { ...zeros, bell_missed: 5 } }, "bells", "bad"],
  ["dead messages", { totals: { ...zeros, dead: 1 } }, "letters", "warn"],
]) {
  test(`${name}: ${level}`, () => assert.equal(levels(changes)[tile], level));
}

test("what was not counted to its end is said", () => {
  assert.match(tileOf("waiting", { store: { ...made().store, is_complete: false } }).note, /at least/);
});

const RATES = { id: "rates", unit: "rate", series: { accepted: "in", acked: "out" } };
const AGES = { id: "ages", unit: "count", series: { ages: "messages" } };
const DELIVERY = { id: "delivery", unit: "share", series: { ratio: "delivered", objective: "objective" } };

test("a chart's columns, table and sentence say the same", () => {
  assert.deepEqual(page.columns(RATES, made()), [[980, 990], [1.5, 0], [1, null]]);
  const { head, body } = page.table(RATES, made());
  assert.deepEqual(head, ["From", "in", "out"]);
  assert.deepEqual(body.map(([, ...values]) => values), [["0/s", "–"], ["1.5/s", "1/s"]], "the newest first");
  assert.equal(page.sentence(RATES, made()), "in: last 0/s, highest 1.5/s; out: last 1/s, highest 1/s");
  assert.deepEqual(page.columns(DELIVERY, made())[2], [0.9995, 0.9995]);
  assert.equal(page.sentence(DELIVERY, made({ series: { ratio: [null, null] } })), "delivered: nothing; objective: last 99.950 %, highest 99.950 %");
});

test("ages: in all and by priority", () => {
  assert.deepEqual(page.columns(AGES, made()), [[0, 1, 2, 3, 4, 5], [4, 0, 0, 0, 0, 2]]);
  assert.deepEqual(page.ageLabels([60, 3600, 86400]), ["< 1 min", "< 1 h", "< 1 d", "≥ 1 d"]);
  const { head, body } = page.table(AGES, made());
  assert.deepEqual(head, ["Age", "high", "low"]);
  assert.deepEqual([body[0], body.at(-1)], [["< 1 min", "1", "3"], ["≥ 1 d", "2", "0"]]);
  assert.match(page.sentence(AGES, made()), /^< 1 min: 4, < 10 min: 0/);
});

test("heights show what there is, and something when there is nothing", () => {
  assert.deepEqual(page.heights("count", null, null), [0, 1]);
  assert.deepEqual(page.heights("count", 0, 0), [0, 1]);
  assert.deepEqual(page.heights("count", 5, 10), [0, 11]);
  assert.equal(page.heights("share", 0.9, 1)[1], 1);
  assert.ok(page.heights("share", 0.9, 1)[0] < 0.9);
  assert.ok(page.heights("share", null, null)[0] < 0.9995, "the objective can be seen");
});

// --- when figures come ---

/** A page without a browser: a clock that is moved on, sockets and questions that are answered by hand. */
class World {
  constructor() {
    Object.assign(this, { clock: 0, timers: new Set(), sockets: [], questions: [], shown: [], states: [] });
  }

  open(on) {
    const socket = { on, sent: [], isClosed: false, send: (text) => socket.sent.push(JSON.parse(text)), close: () => (socket.isClosed = true) };
    this.sockets.push(socket);
    return socket;
  }

  ask(range) {
    return new Promise((answer, fail) => this.questions.push({ range, answer, fail }));
  }

  later(ms, call) {
    const timer = { at: this.clock + ms, call };
    this.timers.add(timer);
    return () => this.timers.delete(timer);
  }

  now = () => this.clock;
  figures = (figures) => this.shown.push(figures);
  state = (state) => this.states.push(state);

  get socket() {
    return this.sockets.at(-1);
  }

  get last() {
    return this.states.at(-1);
  }

  async move(ms) {
    const end = this.clock + ms;
    for (;;) {
      const due = [...this.timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.timers.delete(due);
      this.clock = due.at;
      due.call();
      await settled();
    }
    this.clock = end;
  }

  hear(body, socket = this.socket) {
    socket.on.message(JSON.stringify(body));
  }
}

const settled = () => new Promise((done) => setImmediate(done));
const ok = (range = "1h") => ({ status: 200, body: { range } });

function begun() {
  const world = new World();
  const feed = new page.Feed(world, "1h");
  feed.resume();
  return { world, feed };
}

function live() {
  const made = begun();
  made.world.socket.on.opened();
  made.world.hear({ range: "1h" });
  return made;
}

test("over the WebSocket: asked for once, and again when it was heard", () => {
  const { world } = begun();
  assert.deepEqual(world.socket.sent, []);
  world.socket.on.opened();
  assert.deepEqual(world.socket.sent, [{ range: "1h" }]);
  world.hear({ range: "1h" });
  assert.deepEqual(world.socket.sent, [{ range: "1h" }, { range: "1h" }]);
  assert.deepEqual([world.last.mode, world.shown.length, world.questions.length], ["live", 1, 0]);
});

test("a WebSocket that does not come in time is not waited for", async () => {
  const { world } = begun();
  await world.move(1999);
  assert.equal(world.questions.length, 0);
  await world.move(1);
  world.questions[0].answer(ok());
  await settled();
  assert.deepEqual([world.last.mode, world.shown.length], ["polling", 1]);
  world.socket.on.opened();
  world.hear({ range: "1h" });
  assert.equal(world.last.mode, "live");
  await world.move(page.POLL_MS * 2);
  assert.equal(world.questions.length, 1, "nobody asks beside it");
});

test("without a route the page asks, and tries the WebSocket seldom", async () => {
  const { world } = begun();
  const ask = world.ask.bind(world);
  world.ask = (range) => (ask(range), Promise.resolve(ok(range)));
  world.socket.on.closed(1006);
  assert.equal(world.questions.length, 1, "at once");
  for (let minute = 0; minute < 30; minute += 1) {
    await world.move(60_000);
    if (!world.timers.size || world.sockets.at(-1).isLost) continue;
    world.socket.isLost = true;
    world.socket.on.closed(1006);
  }
  assert.ok(world.questions.length > 150, String(world.questions.length));
  assert.ok(world.sockets.length <= 6, String(world.sockets.length));
});

test("a slow server is not asked again before it has answered", async () => {
  const { world } = begun();
  world.socket.on.closed(1006);
  await world.move(page.POLL_MS * 3);
  assert.equal(world.questions.length, 1);
  world.questions[0].answer(ok());
  await settled();
  assert.equal(world.shown.length, 1, "late, and welcome");
  await world.move(page.POLL_MS);
  assert.equal(world.questions.length, 2);
});

test("a WebSocket that was open is tried soon, and the page asks meanwhile", async () => {
  const { world } = live();
  world.socket.on.closed(1012);
  assert.equal(world.questions.length, 1);
  await world.move(1000);
  assert.equal(world.sockets.length, 2);
  world.socket.on.opened();
  world.hear({ range: "1h" });
  world.questions[0].answer(ok());
  await settled();
  assert.deepEqual([world.last.mode, world.shown.length], ["live", 2], "the late answer counts no more");
});

test("a WebSocket that falls silent is given up", async () => {
  const { world } = live();
  const [first] = world.sockets;
  await world.move(page.SILENT_MS);
  assert.ok(first.isClosed);
  assert.equal(world.questions.length, 1);
  first.on.closed(1006);
  world.hear({ range: "1h" }, first);
  assert.equal(world.shown.length, 1, "what it still says is not heard");
  await world.move(1000);
  assert.equal(world.sockets.length, 2);
});

test("another range is asked for at once, and answers for the one before are dropped", async () => {
  const { world, feed } = live();
  feed.choose("6h");
  assert.deepEqual(world.socket.sent.at(-1), { range: "6h" });
  world.hear({ range: "1h" });
  assert.equal(world.shown.length, 1);
  assert.deepEqual(world.socket.sent.at(-1), { range: "6h" });
  world.hear({ range: "6h" });
  assert.equal(world.shown.at(-1).range, "6h");
  feed.choose("6h");
  assert.equal(world.socket.sent.length, 5);
});

test("another range while the page asks", async () => {
  const { world, feed } = begun();
  world.socket.on.closed(1006);
  feed.choose("30d");
  assert.deepEqual(world.questions.map(({ range }) => range), ["1h", "30d"]);
  world.questions[1].answer(ok("30d"));
  world.questions[0].answer(ok("1h"));
  await settled();
  assert.deepEqual(world.shown.map(({ range }) => range), ["30d"]);
});

test("while nobody looks nothing is open, asked or due", async () => {
  for (const { world, feed } of [begun(), live()]) {
    feed.pause();
    assert.equal(world.last.mode, "paused");
    assert.ok(world.socket.isClosed);
    assert.equal(world.timers.size, 0);
    world.socket.on.closed(1000);
    feed.choose("6h");
    assert.deepEqual([world.timers.size, world.questions.length], [0, 0]);
    feed.resume();
    feed.resume();
    assert.equal(world.sockets.length, 2);
    world.socket.on.opened();
    assert.deepEqual(world.socket.sent, [{ range: "6h" }]);
  }
});

test("an answer that comes while nobody looks is not shown", async () => {
  const { world, feed } = begun();
  world.socket.on.closed(1006);
  feed.pause();
  world.questions[0].answer(ok());
  await settled();
  assert.deepEqual([world.shown.length, world.last.mode], [0, "paused"]);
});

test("errors are said, and what is known stays", async () => {
  const { world } = live();
  const breaker = { state: "open", forced_until: null };
  world.hear({ error: "the message store is unavailable", breaker });
  assert.deepEqual([world.last.problem, world.last.excuse, world.last.at], ["the message store is unavailable", breaker, 0]);
  assert.equal(world.shown.length, 1);
  assert.equal(world.socket.sent.length, 3, "the next is asked for all the same");
  world.hear({ range: "1h" });
  assert.deepEqual([world.last.problem, world.last.excuse], ["", null]);
  world.socket.on.closed(1006);
  world.questions[0].fail(new TypeError("Failed to fetch"));
  await settled();
  assert.equal(world.last.problem, "The server cannot be reached.");
  await world.move(page.POLL_MS);
  world.questions.at(-1).answer({ status: 502, body: null });
  await settled();
  assert.equal(world.last.problem, "The server answered with 502.");
});

for (const code of [4401, 4403]) {
  test(`${code}: it is over`, async () => {
    const { world, feed } = live();
    world.socket.on.closed(code);
    assert.deepEqual([world.last.mode, world.timers.size, world.questions.length], ["refused", 0, 0]);
    feed.pause();
    feed.resume();
    feed.choose("6h");
    assert.deepEqual([world.last.mode, world.sockets.length, world.questions.length], ["refused", 1, 0]);
  });
}

for (const status of [401, 403]) {
  test(`${status}: it is over`, async () => {
    const { world } = begun();
    world.socket.on.closed(1006);
    world.questions[0].answer({ status, body: { error: "not allowed" } });
    await settled();
    assert.deepEqual([world.last.mode, world.timers.size], ["refused", 0]);
  });
}

test("old figures are said to be old", () => {
  const state = { mode: "live", problem: "", excuse: null, at: 1_000_000 };
  assert.deepEqual(page.report(state, 1_000_000 + page.STALE_MS).problem, "");
  const { problem, level } = page.report(state, 1_000_000 + page.STALE_MS + 1000);
  assert.deepEqual([problem, level], ["The figures below are 31 s old.", "bad"]);
  assert.equal(page.report({ ...state, mode: "paused" }, 9e9).problem, "", "nobody expects others");
  assert.match(page.report({ ...state, problem: "No." }, 2_000_000).problem, /^No\. The figures below are 17 min old\.$/);
  assert.equal(page.report({ mode: "loading", problem: "", at: null }, 0).text, "Loading");
});
