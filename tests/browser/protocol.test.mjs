// The protocol's rules one by one, and the golden frames that the server's tests use too.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import test from "node:test";

import { Protocol, SeenIds, golden } from "./client.mjs";
import { Machine } from "./machine.mjs";
import { Line, makeMessage } from "./server.mjs";

const HELLO = golden("hello").frame;
const ACK = golden("ack").frame;
const PING = golden("ping").frame;
const SERVERS = readdirSync(new URL("../golden/", import.meta.url))
  .map((file) => golden(file.replace(".json", "")))
  .filter(({ direction, frame }) => direction === "server_to_client" && frame);

const plain = (value) => JSON.parse(JSON.stringify(value));
const only = (actions, what) => actions.filter((action) => action.do === what);
const written = (actions) => only(actions, "write").map(({ text }) => text);

function connected(frames = [HELLO]) {
  const protocol = new Protocol({ random: () => 0.5 });
  protocol.connect(0);
  return [protocol, frames.flatMap((frame) => protocol.received(frame, 0))];
}

// --- golden frames ---

for (const { name, input, frame } of SERVERS) {
  test(`understands "${name}"`, () => {
    const [protocol] = connected(input.frame === "hello" ? [] : [HELLO]);
    if (input.frame === "messages") protocol.delivered = input.seq - 1;
    const [first, ...more] = protocol.received(frame, 0);
    CHECKS[input.frame](input, { protocol, first, more, frame: JSON.parse(frame) });
  });
}

const CHECKS = {
  hello({ queue, waiting, window, heartbeat_seconds, lost }, { protocol, first, more, frame }) {
    assert.deepEqual(plain(first), { do: "state", state: "replaying", detail: { queue, waiting } });
    assert.equal(protocol.window, window);
    assert.equal(protocol.heartbeatMs, heartbeat_seconds * 1000);
    assert.deepEqual(plain(more), lost.length ? [{ do: "lost", lost: frame.lost }] : []);
    assert.deepEqual(written(protocol.tick(100)), lost.length ? ['{"type":"netra.ack","seq":0}'] : []);
  },
  lost(_, { first, more, frame: { type, ...counts } }) {
    assert.deepEqual(plain(first), { do: "lost", lost: counts });
    assert.deepEqual(written(more), ['{"type":"netra.ack","seq":0}']);
  },
  messages({ messages }, { protocol, first, more }) {
    const given = [first, ...more];
    while (protocol.busy) given.push(...only(protocol.handled(0), "handle"));
    assert.deepEqual(
      given.map(({ message: { data, sentAt, ...rest } }) => ({
        ...rest,
        created_at: sentAt.toISOString(),
        data: data instanceof Uint8Array ? Buffer.from(data).toString("base64") : data,
      })),
      messages.map(({ kind, text, ...rest }) => ({ ...rest, data: kind === "bytes" ? text : JSON.parse(text) })),
    );
  },
  live(_, { protocol, first }) {
    assert.deepEqual([first.do, first.state, protocol.state], ["state", "live", "live"]);
  },
  pong(_, { protocol, first }) {
    assert.equal(first, undefined);
    assert.equal(protocol.due.answer, null);
  },
  retry(_, { protocol, frame }) {
    const [state] = only(protocol.disconnected(1012, "", 1000), "state");
    assert.ok(state.detail.until >= frame.after * 1000);
    protocol.nudge(1001);
    assert.equal(protocol.state, "waiting", "a nudge does not outdo the server's word");
    protocol.tick(frame.after * 1000);
    assert.equal(protocol.state, "connecting");
  },
};

test("writes the golden ack and ping", () => {
  const [protocol] = connected();
  const messages = Array.from({ length: 150 }, (_, n) => makeMessage(n));
  protocol.window = 1000;
  protocol.received(JSON.stringify({ type: "netra.messages", seq: 1, messages }), 0);
  for (let n = 0; n < 150; n += 1) protocol.handled(0);
  assert.deepEqual(written(protocol.tick(100)), [ACK]);
  assert.deepEqual(written(protocol.tick(12_500)), [PING]);
});

test("comes back after every close code but 44xx", () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, ...Object.values(golden("close_codes").codes)]) {
    const [protocol] = connected();
    protocol.disconnected(code, "why", 0);
    const isOver = code >= 4400 && code < 4500;
    assert.equal(protocol.state, isOver ? "closed" : "waiting", code);
    assert.equal(protocol.wakeAt === null, isOver, code);
  }
});

test("ignores frames and keys that it does not know", () => {
  const [protocol] = connected();
  for (const frame of ['{"type":"netra.news","x":1}', '{"type":"chat"}', "[1]", "{}"]) {
    assert.deepEqual(protocol.received(frame, 0), []);
  }
  protocol.received('{"type":"netra.live","since":"tuesday"}', 0);
  assert.equal(protocol.state, "live");
});

test("what cannot be read breaks the connection, with growing pauses", () => {
  const protocol = new Protocol({ random: () => 1 });
  let now = 0;
  const unread = ["{", "null", '{"type":"netra.messages","seq":1}', '{"type":"netra.messages","seq":2,"messages":[]}'];
  const pauses = unread.map((frame) => {
    protocol.connect(now);
    for (const text of [HELLO, golden("live").frame]) protocol.received(text, now);
    assert.equal(only(protocol.received(frame, now), "disconnect").length, 1, frame);
    const pause = protocol.wakeAt - now;
    now = protocol.wakeAt;
    return pause;
  });
  assert.deepEqual(pauses, [500, 1000, 2000, 4000]);
});

test("a hello with nothing but its type does no harm", () => {
  const [protocol] = connected(['{"type":"netra.hello"}']);
  assert.deepEqual([protocol.window, protocol.heartbeatMs, protocol.state], [256, 25_000, "replaying"]);
  protocol.received('{"type":"netra.retry"}', 0);
  protocol.disconnected(1012, "", 0);
  assert.ok(protocol.wakeAt <= 250);
});

test("before the hello, nothing counts", () => {
  const [protocol] = connected(['{"type":"netra.live"}', '{"type":"netra.lost","expired":1,"dropped":0}']);
  assert.equal(protocol.state, "connecting");
});

// --- acks ---

test("acks after handling, coalesced", () => {
  const machine = new Machine(new Line()).live();
  machine.push(3);
  machine.deliver();
  machine.pass(500);
  assert.deepEqual(machine.socket.server.frames, [], "nothing is handled yet");
  for (let n = 0; n < 3; n += 1) machine.finish();
  assert.deepEqual(machine.socket.server.frames, []);
  machine.pass(100);
  assert.deepEqual(machine.socket.server.frames, ['{"type":"netra.ack","seq":3}']);
});

test("acks at once after half a window, repeats included", () => {
  const line = new Line({ window: 8 });
  const machine = new Machine(line).live();
  machine.push(8);
  machine.deliver();
  for (let n = 0; n < 4; n += 1) machine.finish();
  assert.deepEqual(machine.socket.server.frames, ['{"type":"netra.ack","seq":4}']);
});

test("after a broken connection, repeats are dropped, acked and told", () => {
  const line = new Line();
  const machine = new Machine(line).live();
  machine.push(3);
  machine.deliver();
  machine.finish();
  machine.finish();
  machine.drop(1006); // before the ack
  machine.pass(1_000);
  machine.accept();
  machine.deliver(Infinity);
  machine.finish(); // begun on the connection before
  assert.deepEqual(only(machine.log, "repeat").length, 3);
  machine.settle();
  machine.pass(100);
  assert.deepEqual([...machine.handled.values()], [1, 1, 1]);
  assert.deepEqual(line.messages, []);
});

test("what is handled is saved, once a second at most, and when a connection ends", () => {
  const machine = new Machine(new Line()).live();
  const saves = () => only(machine.log, "save").length;
  for (const expected of [1, 1, 1, 2, 2]) {
    machine.push(1);
    machine.deliver();
    machine.finish();
    machine.pass(400);
    assert.equal(saves(), expected);
  }
  machine.now -= 3_600_000;
  machine.do("tick");
  machine.pass(1_000);
  machine.push(1);
  machine.deliver();
  machine.finish();
  machine.pass(400);
  assert.equal(saves(), 3);
  for (const end of [() => machine.drop(1006), () => machine.drop(4401)]) {
    machine.log.length = 0;
    machine.start();
    machine.accept();
    machine.deliver(Infinity);
    end();
    assert.ok(only(machine.log, "save").length);
  }
});

test("handled when the connection is gone, it is saved all the same", () => {
  const machine = new Machine(new Line()).live();
  machine.push(1);
  machine.deliver();
  machine.drop(4401);
  machine.log.length = 0;
  machine.finish();
  assert.equal(only(machine.log, "save").length, 1);
});

test("remembers two windows of ids, and forgets the oldest", () => {
  const seen = new SeenIds(["a", "b"]);
  for (const id of ["c", "d", "e"]) seen.add(id, 4);
  assert.deepEqual([...seen.ids], ["b", "c", "d", "e"]);
  const line = new Line({ window: 4 });
  const machine = new Machine(line).live();
  machine.push(50);
  machine.settle();
  assert.equal(machine.protocol.seen.ids.size, 8);
});

test("remembers what was waiting as well: what was handled and not acked may come after it", () => {
  const machine = new Machine(new Line({ window: 4 }));
  machine.push(20);
  machine.live();
  machine.settle();
  machine.push(50);
  machine.settle();
  assert.equal(machine.protocol.seen.ids.size, 28);
});

test("a message that fails is not acked, what came before is, and it comes again", () => {
  const line = new Line();
  const machine = new Machine(line).live();
  machine.push(3);
  machine.deliver();
  machine.finish();
  const { frames } = machine.socket.server;
  machine.fail();
  assert.deepEqual(frames, ['{"type":"netra.ack","seq":1}']);
  assert.equal(only(machine.log, "error").length, 1);
  assert.equal(machine.protocol.state, "waiting");
  machine.settle();
  assert.deepEqual([...machine.handled.values()], [1, 1, 1]);
});

test("a loss is acked, when it came while acks were on their way too", () => {
  const machine = new Machine(new Line()).live();
  machine.push(1);
  machine.deliver();
  machine.finish();
  machine.do("received", golden("lost").frame);
  assert.deepEqual(machine.socket.server.frames, ['{"type":"netra.ack","seq":0}']);
  machine.pass(100);
  assert.deepEqual(machine.socket.server.frames.slice(1), ['{"type":"netra.ack","seq":1}']);
});

// --- coming back ---

test("pauses are random between nothing and a ceiling that doubles up to 30 s", () => {
  for (const [random, expected] of [
    [1, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]],
    [0.25, [125, 250, 500, 1000, 2000, 4000, 7500, 7500]],
  ]) {
    const protocol = new Protocol({ random: () => random });
    protocol.connect(0);
    const pauses = expected.map(() => {
      const before = protocol.now;
      protocol.disconnected(1006, "", before);
      protocol.tick(protocol.wakeAt);
      return protocol.now - before;
    });
    assert.deepEqual(pauses, expected);
  }
});

test("without a hello it gives up after 15 s, with a nudge after 3", () => {
  for (const [nudged, ms] of [[false, 15_000], [true, 3_000]]) {
    const machine = new Machine(new Line());
    machine.start();
    if (nudged) machine.nudge();
    machine.pass(ms - 1);
    assert.equal(machine.protocol.state, "connecting");
    machine.pass(1);
    assert.equal(machine.protocol.state, "waiting");
  }
});

test("pings twice a heartbeat, however busy, and a silent server is noticed within one", () => {
  const line = new Line({ heartbeat: 10 });
  const machine = new Machine(line).live();
  machine.pass(10_000);
  assert.equal(machine.protocol.state, "waiting", "no answer was delivered");
  machine.settle();
  const { server } = machine.socket;
  for (let n = 0; n < 40; n += 1) {
    machine.pass(1_000);
    machine.do("send", { text: "{}" });
    machine.deliver(Infinity);
  }
  assert.equal(server.frames.filter((text) => text === PING).length, 8);
  assert.equal(machine.protocol.state, "live");
});

test("a nudge finds a dead connection within 3 s, and leaves a good one alone", () => {
  const machine = new Machine(new Line()).live();
  machine.nudge();
  machine.deliver(Infinity);
  machine.pass(3_000);
  assert.equal(machine.protocol.state, "live");
  machine.socket.isDead = true;
  machine.nudge();
  machine.pass(3_000);
  assert.equal(machine.protocol.state, "waiting");
});

test("suspended, it does nothing until it is nudged", () => {
  const machine = new Machine(new Line()).live();
  machine.push(1);
  machine.deliver();
  machine.finish();
  const { frames } = machine.socket.server;
  machine.suspend();
  assert.deepEqual([machine.socket, machine.protocol.wakeAt, machine.protocol.state], [null, null, "waiting"]);
  assert.deepEqual(frames, ['{"type":"netra.ack","seq":1}'], "what was handled is acked");
  machine.pass(3_600_000);
  assert.equal(machine.socket, null);
  machine.nudge();
  assert.equal(machine.protocol.state, "connecting");
  machine.settle();
});

test("a clock that is set back delays nothing, one that is set ahead breaks nothing", () => {
  const machine = new Machine(new Line()).live();
  machine.push(1);
  machine.deliver();
  machine.finish();
  machine.now -= 3_600_000;
  machine.do("tick");
  machine.pass(100);
  assert.deepEqual(machine.socket.server.frames, ['{"type":"netra.ack","seq":1}']);
  machine.sleep(3_600_000);
  machine.deliver(Infinity);
  machine.pass(3_000);
  assert.equal(machine.protocol.state, "live");
});

test("what netra.retry said counts from then on, even when the clock is set back", () => {
  const machine = new Machine(new Line()).live();
  machine.do("received", '{"type":"netra.retry","after":10}');
  machine.drop(1012);
  machine.now -= 3_600_000;
  machine.nudge();
  machine.pass(9_999);
  assert.equal(machine.protocol.state, "waiting");
  machine.pass(1);
  assert.equal(machine.protocol.state, "connecting");
});

test("closed, it can be connected again, and pauses are short again", () => {
  const machine = new Machine(new Line(), { random: () => 1 });
  machine.start();
  for (let n = 0; n < 5; n += 1) {
    machine.drop(1006);
    machine.pass(30_000);
  }
  machine.drop(4403);
  machine.pass(3_600_000);
  assert.equal(machine.socket, null);
  machine.start();
  machine.drop(1006);
  assert.equal(machine.protocol.wakeAt - machine.now, 500);
});
