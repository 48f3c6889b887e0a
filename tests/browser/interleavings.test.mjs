// Whatever happens in whatever order: Machine checks the promises after every step, and in the end all has arrived.

import assert from "node:assert/strict";
import test from "node:test";

import { Machine } from "./machine.mjs";
import { Line, seeded } from "./server.mjs";

const RUNS = Number(process.env.NETRA_CLIENT_RUNS ?? 250);
const FIRST = Number(process.env.NETRA_CLIENT_SEED ?? 1);
const STEPS = 300;
const CODES = [1000, 1001, 1006, 1006, 1011, 1012, 4503, 4508, 4529];

/** [weight, what happens] */
const HAPPENINGS = [
  [12, (m) => m.accept()],
  [30, (m) => m.deliver()],
  [10, (m) => m.deliver(Infinity)],
  [20, (m, random) => m.push(1 + Math.floor(random() * 6))],
  [30, (m) => m.finish()],
  [2, (m) => m.fail()],
  [3, (m, random) => m.drop(CODES[Math.floor(random() * CODES.length)])],
  [1, (m) => m.drop(4401)],
  [2, (m) => m.socket && (m.socket.isDead = true)],
  [3, (m) => m.nudge()],
  [2, (m) => m.suspend()],
  [1, (m) => m.close()],
  [6, (m) => m.isEnded && m.start()],
  [10, (m, random) => m.pass(random() * 200)],
  [6, (m, random) => m.pass(random() * 40_000)],
  [2, (m, random) => m.sleep(random() * 3_600_000)],
  [2, (m, random) => (m.now -= Math.floor(random() * 600_000))],
  [8, (m) => m.do("send", { text: JSON.stringify({ n: (m.said = (m.said ?? 0) + 1) }) })],
  [1, (m, random) => m.socket?.toClient.push(`{"type":"netra.retry","after":${(random() * 5).toFixed(1)}}`)],
  [1, (m) => m.socket?.toClient.push('{"type":"netra.lost","expired":1,"dropped":0}')],
  [1, (m) => m.socket?.toClient.push('{"type":"netra.messages","seq":9999,"messages":[]}')],
];
const WEIGHTS = HAPPENINGS.reduce((sum, [weight]) => sum + weight, 0);

function choose(random) {
  let left = random() * WEIGHTS;
  return HAPPENINGS.find(([weight]) => (left -= weight) <= 0)[1];
}

function play(seed) {
  const random = seeded(seed);
  const line = new Line({ window: 1 + Math.floor(random() * 16), heartbeat: [2.5, 25][Math.floor(random() * 2)] });
  const machine = new Machine(line, { random });
  machine.start();
  for (let step = 0; step < STEPS; step += 1) choose(random)(machine, random);
  if (machine.isEnded) machine.start();
  machine.settle();
  machine.pass(1_000);
  assert.deepEqual(line.messages, []);
  const said = machine.sent.map((text) => JSON.parse(text).n);
  const all = Array.from({ length: machine.said ?? 0 }, (_, n) => n + 1);
  assert.deepEqual(said, all, "own frames, each once and in order");
  return machine;
}

test(`whatever happens (${RUNS} runs from seed ${FIRST})`, () => {
  let handled = 0;
  for (let seed = FIRST; seed < FIRST + RUNS; seed += 1) {
    try {
      handled += play(seed).handled.size;
    } catch (error) {
      error.message = `NETRA_CLIENT_RUNS=1 NETRA_CLIENT_SEED=${seed}: ${error.message}`;
      throw error;
    }
  }
  assert.ok(handled > RUNS * 20, `only ${handled} messages handled`);
});
