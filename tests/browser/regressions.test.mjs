// What other clients got wrong, one test each.

import assert from "node:assert/strict";
import test from "node:test";

import { Machine } from "./machine.mjs";
import { Line } from "./server.mjs";

const connects = (machine) => machine.log.filter(({ do: what }) => what === "connect").length;

test("a retry that stops after N attempts", () => {
  const machine = new Machine(new Line(), { random: () => 1 });
  machine.start();
  for (let n = 0; n < 10_000; n += 1) {
    machine.drop(1006);
    machine.pass(machine.protocol.wakeAt - machine.now);
    assert.equal(machine.protocol.state, "connecting");
  }
  assert.equal(connects(machine), 10_001);
  machine.settle();
});

test("a breaker that never closes: a connection that works makes the pauses short again", () => {
  const machine = new Machine(new Line({ heartbeat: 10 }), { random: () => 1 }).live();
  const firstPause = () => machine.protocol.wakeAt - machine.now;
  for (let n = 0; n < 8; n += 1) {
    machine.socket.isDead = true; // silent, on a queue where nothing happens
    machine.pass(10_000);
    assert.equal(machine.protocol.state, "waiting");
    machine.settle();
    machine.pass(5_000); // one ping
    machine.deliver(Infinity);
  }
  machine.drop(1006);
  assert.equal(firstPause(), 500);
  machine.settle();
  for (let n = 0; n < 8; n += 1) {
    machine.push(1);
    machine.deliver();
    machine.fail(); // once; the next time it is handled
    machine.settle();
  }
  machine.drop(1006);
  assert.equal(firstPause(), 500);
});

test("a gap detector that loops after a failed recovery", () => {
  const machine = new Machine(new Line({ heartbeat: 120 }), { random: () => 1 }).live();
  const before = connects(machine);
  for (let minute = 0; minute < 60; minute += 1) {
    for (let second = 0; second < 60; second += 1) {
      machine.accept();
      machine.socket?.toClient.push('{"type":"netra.messages","seq":7,"messages":[]}'); // on every connection
      machine.deliver(Infinity);
      machine.pass(1_000);
    }
  }
  assert.ok(connects(machine) - before < 140, `${connects(machine)} connections in an hour`);
});

test("a message that always fails does not make it hammer the server", () => {
  const machine = new Machine(new Line({ heartbeat: 120 }), { random: () => 1 }).live();
  machine.push(1);
  const before = connects(machine);
  for (let second = 0; second < 3_600; second += 1) {
    machine.accept();
    machine.deliver(Infinity);
    machine.fail();
    machine.pass(1_000);
  }
  assert.ok(connects(machine) - before < 140, `${connects(machine)} connections in an hour`);
});

test("a timer that fires after close()", () => {
  for (const prepare of [(m) => m.live(), (m) => m.start(), (m) => (m.start(), m.drop(1006))]) {
    const machine = new Machine(new Line());
    prepare(machine);
    machine.close();
    assert.equal(machine.protocol.wakeAt, null);
    machine.log.length = 0;
    machine.sleep(60_000);
    for (const type of ["hello", "live"]) machine.do("received", `{"type":"netra.${type}"}`);
    machine.do("received", '{"type":"netra.lost","expired":1,"dropped":0}');
    machine.do("disconnected", 1006, "");
    machine.nudge();
    assert.deepEqual(machine.log, []);
  }
});

test("two sockets after online and visibilitychange at once", () => {
  const machine = new Machine(new Line()); // it refuses a second socket
  machine.start();
  machine.drop(1006);
  machine.nudge();
  machine.nudge();
  machine.pass(1);
  machine.nudge();
  assert.equal(connects(machine), 2);
  machine.settle();
});

test("an ack sent on the wrong (new) connection", () => {
  const line = new Line();
  const machine = new Machine(line).live();
  machine.push(5);
  machine.deliver();
  for (let n = 0; n < 3; n += 1) machine.finish(); // the ack is due, and the fourth is being handled
  machine.drop(1006);
  line.messages = line.messages.slice(4); // taken by an ack on another tab
  machine.nudge();
  machine.accept();
  machine.do("received", machine.socket.toClient.shift());
  machine.finish();
  machine.pass(200);
  assert.deepEqual(machine.socket.server.frames, []);
  machine.settle();
  machine.pass(200);
  assert.deepEqual(machine.socket.server.frames, ['{"type":"netra.ack","seq":1}']);
});

test("a ping answered late by a slept laptop", () => {
  const line = new Line({ heartbeat: 10 });
  const machine = new Machine(line).live();
  machine.pass(5_000);
  assert.equal(machine.socket.toClient.length, 1, "the pong is there,");
  machine.sleep(20_000); // and the timer runs before it is read
  assert.equal(machine.protocol.state, "live");
  machine.deliver(Infinity);
  machine.pass(4_000);
  assert.equal(machine.protocol.state, "live");
  assert.equal(line.connections.length, 1);
});

test("a page whose timers come a minute late still notices a dead connection", () => {
  const machine = new Machine(new Line()).live();
  machine.socket.isDead = true;
  for (let minute = 0; minute < 4 && machine.protocol.state === "live"; minute += 1) machine.sleep(60_000);
  assert.equal(machine.protocol.state, "waiting");
});

test("a page whose timers come a minute late acks and pings when a frame comes", () => {
  const machine = new Machine(new Line()).live();
  const { frames } = machine.socket.server;
  machine.push(1);
  machine.deliver();
  machine.finish();
  machine.now += 20_000;
  machine.push(1);
  machine.deliver();
  assert.deepEqual(frames, ['{"type":"netra.ack","seq":1}', '{"type":"netra.ping"}']);
});
