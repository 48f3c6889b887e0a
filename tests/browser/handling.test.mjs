// Messages and the page's handlers.

import assert from "node:assert/strict";
import test from "node:test";

import { Browser } from "./browser.mjs";
import { makeMessage } from "./server.mjs";

async function opened(options) {
  const browser = new Browser();
  const page = browser.tab(options).open();
  const queue = page.queue();
  await browser.settle();
  const line = page.sockets[0].line;
  const push = async (...messages) => {
    line.messages.push(...messages);
    line.connection.transmit();
    await browser.settle();
  };
  return { browser, page, queue, line, push };
}

const acks = (page) => page.sockets.flatMap(({ sent }) => sent.filter((text) => text.includes("netra.ack")));
const numbers = (count, from = 0) => Array.from({ length: count }, (_, n) => makeMessage(from + n));

test("connects with the subprotocol and an id, and says how it stands", async () => {
  const { page, queue } = await opened();
  const [socket] = page.sockets;
  assert.match(socket.url.href, /^wss:\/\/example\.org\/ws\/\?client=tab-[0-9-]+$/);
  assert.match(socket.url.searchParams.get("client"), /^[A-Za-z0-9_-]{1,64}$/);
  assert.deepEqual(socket.protocols, ["netra-queue.v1"]);
  assert.deepEqual(queue.states, ["connecting", "replaying", "live"]);
  assert.equal(queue.state, "live");
});

test("URLs: relative, http, ws, with a query, and what is none", async () => {
  const browser = new Browser();
  const page = browser.tab().open();
  for (const [url, client, expected] of [
    ["ws/x/", "phone-1", "wss://example.org/ws/x/?client=phone-1"],
    ["http://a.test/ws/?room=2#x", "p", "ws://a.test/ws/?room=2&client=p"],
    ["wss://a.test/ws/", "", "wss://a.test/ws/"],
  ]) {
    const queue = page.queue(url, { client });
    await browser.settle();
    assert.equal(page.sockets.at(-1).url.href, expected);
    queue.close();
  }
  assert.throws(() => page.queue("ftp://a.test/"), /url: expected/);
  assert.throws(() => page.queue("/ws/", { client: "a b" }), /client: expected/);
  assert.throws(() => page.queue("/ws/", { outbox: "disk" }), /outbox: expected/);
  assert.equal(page.leftovers.listeners, 0);
});

test("a message has what it is documented to have, and is acked when the handler is done", async () => {
  const { browser, page, queue, push } = await opened();
  let done;
  const got = [];
  queue.onmessage = (message) => {
    got.push(message);
    return new Promise((resolve) => (done = resolve));
  };
  await push(makeMessage({ n: 1 }, { id: "a", priority: "high", replayed: true }), makeMessage(2));
  await browser.pass(5_000);
  assert.equal(got.length, 1, "one at a time");
  const [{ data, id, priority, sentAt, replayed, type }] = got;
  assert.deepEqual(JSON.stringify({ data, id, priority, sentAt, replayed, type }), JSON.stringify({
    data: { n: 1 }, id: "a", priority: "high", sentAt: "2026-01-01T12:00:00.000Z", replayed: true, type: "message",
  }));
  assert.deepEqual(acks(page), []);
  done();
  await browser.pass(100);
  assert.deepEqual(acks(page), ['{"type":"netra.ack","seq":1}']);
  assert.equal(got[1].data, 2);
});

test("text, bytes and null arrive as such", async () => {
  const { queue, push } = await opened();
  const got = [];
  queue.onmessage = ({ data }) => got.push(data);
  const { data: _, ...rest } = makeMessage(0);
  await push({ ...rest, id: "t", text: "line 1\n" }, { ...rest, id: "b", data_base64: "AAH+/w==" }, makeMessage(null));
  assert.equal(got[0], "line 1\n");
  assert.deepEqual([...got[1]], [0, 1, 254, 255]);
  assert.equal(got[2], null);
});

test("several listeners, one after the other, whatever they are", async () => {
  const { browser, queue, push, page } = await opened();
  const got = [];
  const twice = () => got.push("twice?");
  const gone = () => got.push("gone");
  const controller = new AbortController();
  queue.onmessage = async () => {
    await new Promise((resolve) => browser.setTimeout(resolve, 50));
    got.push("slow");
  };
  queue.addEventListener("message", { handleEvent: ({ data }) => got.push(`object ${data}`) });
  queue.addEventListener("message", twice);
  queue.addEventListener("message", twice);
  queue.addEventListener("message", () => got.push("once"), { once: true });
  queue.addEventListener("message", gone);
  queue.removeEventListener("message", gone);
  queue.addEventListener("message", () => got.push("until"), { signal: controller.signal });
  queue.addEventListener("message", () => got.push("too late"), { signal: AbortSignal.abort() });
  queue.addEventListener("message", null);
  await push(makeMessage(1));
  assert.deepEqual([got, acks(page)], [[], []]);
  await browser.pass(50);
  assert.deepEqual(got.splice(0), ["slow", "object 1", "twice?", "once", "until"]);
  controller.abort();
  await push(makeMessage(2));
  await browser.pass(150);
  assert.deepEqual(got, ["slow", "object 2", "twice?"]);
  assert.deepEqual(acks(page).at(-1), '{"type":"netra.ack","seq":2}');
});

test("while nobody listens, messages wait, also over a broken connection", async () => {
  const { browser, queue, push, page } = await opened();
  await push(...numbers(3));
  await browser.pass(1_000);
  assert.deepEqual(acks(page), []);
  page.sockets[0].end(1006);
  await browser.pass(2_000);
  const got = [];
  queue.addEventListener("message", ({ data }) => got.push(data));
  await browser.pass(100);
  assert.deepEqual(got, [0, 1, 2]);
  assert.equal(page.sockets[1].line.messages.length, 0);
});

test("a handler that throws: an error event, no ack, and the message again", async () => {
  const { browser, queue, push, page, line } = await opened();
  const got = [];
  const errors = [];
  let isBad = true;
  queue.addEventListener("error", (event) => errors.push(event.detail.error));
  queue.addEventListener("message", async ({ data }) => {
    got.push(data);
    if (data === 1 && isBad) throw new Error("cannot");
  });
  await push(...numbers(3));
  assert.deepEqual(got, [0, 1]);
  assert.equal(errors[0].message, "cannot");
  assert.equal(page.errors.length, 1, "and the console has it");
  assert.deepEqual(acks(page), ['{"type":"netra.ack","seq":1}']);
  assert.equal(queue.state, "waiting");
  isBad = false;
  queue.addEventListener("error", (event) => event.preventDefault());
  await browser.pass(1_000);
  assert.deepEqual(got, [0, 1, 1, 2]);
  assert.deepEqual(line.messages, []);
  isBad = true;
  await push(makeMessage(1));
  assert.equal(page.errors.length, 1, "unless its default is prevented");
});

test("a handler that never ends: no other call, no ack, whatever the server does", async () => {
  const { browser, queue, push, page, line } = await opened();
  const got = [];
  queue.onmessage = ({ data }) => (got.push(data), new Promise(() => {}));
  await push(...numbers(2));
  for (let n = 0; n < 3; n += 1) {
    page.sockets.at(-1).end(4508, "no ack within the ack timeout");
    await browser.pass(10_000);
  }
  assert.deepEqual([got, acks(page), line.messages.length, queue.state], [[0], [], 2, "live"]);
});

test("what was lost, and what came again, is told", async () => {
  const browser = new Browser();
  const page = browser.tab().open();
  browser.line("p", { lost: { expired: 3, dropped: 0 } });
  const queue = page.queue("/ws/", { client: "p" });
  const told = [];
  queue.addEventListener("lost", ({ detail }) => told.push(JSON.stringify(detail)));
  queue.addEventListener("repeat", ({ detail }) => told.push(`again ${detail.data}`));
  queue.onmessage = () => {};
  await browser.pass(100);
  const [socket] = page.sockets;
  assert.deepEqual(socket.sent, ['{"type":"netra.ack","seq":0}']);
  socket.say('{"type":"netra.lost","expired":0,"dropped":0,"withheld":2}');
  const message = makeMessage("x");
  socket.line.messages.push(message);
  socket.connection.transmit();
  await browser.settle();
  socket.end(1006);
  await browser.pass(1_000);
  assert.deepEqual(told.filter((_, n) => n !== 2), [
    '{"expired":3,"dropped":0}', '{"expired":0,"dropped":0,"withheld":2}', "again x",
  ]);
  assert.equal(told.length, 4, "the hello of the second connection told of the same losses");
});

test("10,000 messages of replay: in order, once, and the page may draw every few milliseconds", async () => {
  const browser = new Browser();
  const page = browser.tab().open();
  const line = browser.line("p", { messages: numbers(10_000) });
  const queue = page.queue("/ws/", { client: "p" });
  const got = [];
  let slice = 0;
  let longest = 0;
  const { later } = browser;
  browser.later = (run) => ((slice = browser.now), later.call(browser, run));
  queue.onmessage = ({ data }) => {
    got.push(data);
    browser.now += 1; // takes a millisecond
    longest = Math.max(longest, browser.now - slice);
  };
  await browser.pass(0);
  assert.deepEqual(got, Array.from({ length: 10_000 }, (_, n) => n));
  assert.ok(longest <= 10, `${longest} ms at a stretch`);
  await browser.pass(100);
  assert.equal(line.messages.length, 0);
  assert.equal(page.leftovers.ports, 0);
});

test("all listeners hear of everything in the same order, when one of them closes", async () => {
  const { browser, page, queue } = await opened();
  const states = [];
  queue.addEventListener("state", ({ detail }) => detail.state === "live" && queue.close());
  queue.addEventListener("state", ({ detail }) => states.push(detail.state));
  page.sockets[0].end(1006);
  await browser.pass(1_000);
  assert.deepEqual(states, ["waiting", "connecting", "replaying", "live", "closed"]);
});

test("closed by a listener of the same frame, the message behind it is not handled", async () => {
  const { browser, page, queue, push } = await opened();
  const got = [];
  queue.onmessage = ({ data }) => got.push(data);
  page.sockets[0].isCut = true;
  await push(makeMessage(1));
  page.sockets[0].line.messages.push(makeMessage(2));
  queue.addEventListener("repeat", () => queue.close(), { once: true });
  page.sockets[0].end(1006);
  await browser.pass(1_000);
  assert.deepEqual([got, queue.state], [[1], "closed"]);
  queue.connect();
  await browser.pass(1_000);
  assert.deepEqual(got, [1, 2]);
});

for (const type of ["state", "error", "lost", "repeat", "message"]) {
  for (const [what, act] of Object.entries({
    closes: (queue) => queue.close(),
    "closes and connects": (queue) => (queue.close(), queue.connect()),
    sends: (queue) => queue.send({ n: 1 }).catch(() => {}),
  })) {
    test(`a listener of "${type}" that ${what}`, async () => {
      const { browser, page, queue, push } = await opened();
      let isBad = type === "error";
      let handled = 0;
      queue.onmessage = () => {
        if (isBad) throw new Error("bad");
        handled += 1;
      };
      let acts = 0;
      queue.addEventListener(type, () => (acts += 1) <= 3 && act(queue));
      await push(makeMessage(1));
      page.sockets[0].say('{"type":"netra.lost","expired":1,"dropped":0}');
      await browser.settle();
      if (queue.state !== "closed") page.sockets.at(-1).end(1006);
      await browser.pass(20_000);
      isBad = false;
      await browser.pass(40_000);
      assert.ok(acts > 0);
      assert.equal(queue.state, what === "closes" ? "closed" : "live");
      assert.equal(queue.states.at(-1), queue.state, "the last word is right");
      assert.ok(page.sockets.filter(({ readyState }) => readyState < 2).length <= 1, "one socket");
      if (what === "closes") assert.deepEqual(page.leftovers, { timers: 0, listeners: 0, ports: 0, open: 0 });
      else assert.equal(handled, 1);
    });
  }
}
