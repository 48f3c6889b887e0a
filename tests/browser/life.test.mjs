// The life of a page: online and offline, back and forward, and the end.

import assert from "node:assert/strict";
import test from "node:test";

import { Browser, clientOf, live, openSockets, push, started } from "./browser.mjs";

const NOTHING = { timers: 0, listeners: 0, ports: 0, open: 0 };

// --- the network and the page come back ---

test("online and visibilitychange at once: one socket, at once", async () => {
  const { browser, page, queue } = await started();
  browser.isReachable = false;
  page.fire("offline");
  page.sockets[0].end(1006);
  await browser.pass(120_000);
  browser.isReachable = true;
  const before = page.sockets.length;
  page.fire("online");
  page.see(true);
  await browser.settle();
  assert.ok(page.sockets.length - before <= 1);
  assert.equal(queue.state, "live");
  assert.equal(openSockets(page).length, 1);
});

test("a dead connection is noticed soon when the page is seen again, or the browser says offline", async () => {
  for (const event of [(page) => page.see(true), (page) => page.fire("offline"), (page) => page.fire("online")]) {
    const { browser, page, queue } = await started();
    page.sockets[0].isCut = true;
    event(page);
    await browser.pass(2_999);
    assert.equal(page.sockets.length, 1);
    await browser.pass(1_000);
    assert.deepEqual([page.sockets.length, queue.state], [2, "live"]);
  }
});

test("offline, a page that waits goes on waiting", async () => {
  const { browser, page } = await started();
  browser.isReachable = false;
  page.sockets[0].end(1006);
  const before = page.sockets.length;
  page.fire("offline");
  page.see(false);
  assert.equal(page.sockets.length, before);
});

test("back and forward: nothing is open meanwhile, and it goes on as the same client", async () => {
  const { browser, tab, page, queue, id } = await started();
  await push(page, 1);
  page.hide();
  await browser.settle();
  assert.deepEqual([openSockets(page).length, page.timers.length, browser.locks.held], [0, 0, []]);
  assert.deepEqual(browser.line(id).messages, [], "acked on leaving");
  const other = await live(tab);
  assert.equal(clientOf(other), id, "the next page of this tab is the same client");
  other.sockets[0].isCut = true;
  await push(other, 2);
  other.hide();
  other.die();
  page.show();
  await browser.pass(100);
  assert.deepEqual([clientOf(page), queue.state, openSockets(page).length], [id, "live", 1]);
  await push(page, 3);
  assert.deepEqual(page.got, [1, 3], "2 was handled by the other page");
});

test("back and forth quickly, and while it starts", async () => {
  const browser = new Browser();
  const page = browser.tab().open();
  const queue = page.queue();
  for (let n = 0; n < 5; n += 1) {
    page.hide();
    page.show();
    if (n % 2) await browser.settle();
  }
  await browser.pass(1_000);
  assert.deepEqual([queue.state, openSockets(page).length, browser.locks.held.length], ["live", 1, 1]);
  page.hide();
  queue.close();
  page.show();
  await browser.pass(60_000);
  assert.deepEqual([queue.state, page.leftovers, browser.locks.held], ["closed", NOTHING, []]);
});

// --- the end ---

test("close(): nothing is left behind, whenever it comes", async () => {
  for (const reach of [true, false]) {
    for (const ms of [0, 1, 100, 700, 20_000]) {
      const browser = new Browser();
      browser.isReachable = reach;
      const page = browser.tab().open();
      const queue = page.queue();
      if (ms) await browser.pass(ms);
      queue.close();
      queue.close();
      await browser.settle();
      assert.deepEqual([page.leftovers, browser.locks.held, queue.state], [NOTHING, [], "closed"], `after ${ms} ms`);
      assert.equal(queue.states.filter((state) => state === "closed").length, 1);
      const { length } = page.sockets;
      for (const type of ["online", "offline", "pageshow"]) page.fire(type, { persisted: true });
      page.see(true);
      await browser.pass(3_600_000);
      assert.deepEqual([page.sockets.length, page.delays.at(-1) < 2 ** 31 || ms === 0], [length, true]);
    }
  }
});

test("close() while a handler runs: its message is not handled again after connect()", async () => {
  const { browser, page, queue } = await started();
  const got = [];
  let done;
  queue.onmessage = ({ data }) => (got.push(data), new Promise((resolve) => (done = resolve)));
  await push(page, 1, 2);
  queue.close();
  await browser.pass(1_000);
  assert.deepEqual(page.leftovers, NOTHING);
  queue.connect();
  await browser.pass(1_000);
  done();
  await browser.pass(1_000);
  assert.deepEqual(got, [1, 2]);
});

test("closed before anybody listened, a message is not handled until it comes again", async () => {
  const { browser, page, queue } = await started();
  queue.onmessage = null;
  await push(page, 1);
  queue.close();
  queue.onmessage = ({ data }) => page.got.push(data);
  await browser.settle();
  assert.deepEqual(page.got, []);
  queue.connect();
  await browser.pass(1_000);
  assert.deepEqual(page.got, [1]);
});

test("connect() and close() quickly one after the other: one socket, or none", async () => {
  const { browser, page, queue, id } = await started();
  for (let n = 0; n < 20; n += 1) {
    queue.close();
    queue.connect();
    queue.connect();
    if (n % 3 === 0) await browser.settle();
  }
  await browser.pass(1_000);
  assert.deepEqual([queue.state, openSockets(page).length, clientOf(page)], ["live", 1, id]);
  queue.close();
  queue.connect();
  queue.close();
  await browser.pass(1_000);
  assert.deepEqual([page.leftovers, browser.locks.held, queue.state], [NOTHING, [], "closed"]);
});

test("close(), connect(), back and forward while the id is still asked for", async () => {
  const { browser, tab, page } = await started();
  const copy = tab.duplicate();
  const twin = copy.open();
  const queue = twin.queue(); // waits for the lock of the original
  await browser.pass(100);
  queue.close();
  queue.connect();
  await browser.pass(10);
  assert.deepEqual([...browser.locks.holders.values()].map(({ length }) => length), [2], "one start after the other");
  queue.close();
  await browser.pass(5_000);
  assert.deepEqual([twin.sockets.length, twin.leftovers, browser.locks.held.length], [0, NOTHING, 1]);
  for (let n = 0; n < 4; n += 1) {
    queue.connect();
    await browser.pass(100 * n);
    twin.hide();
    await browser.pass(n % 2);
    twin.show();
    await browser.pass(150 * n);
    queue.close();
    queue.connect();
  }
  await browser.pass(10_000);
  assert.deepEqual([queue.state, openSockets(twin).length, browser.locks.held.length], ["live", 1, 2]);
  assert.notEqual(clientOf(twin), clientOf(page));
});

test("a 44xx ends it; connect() begins again", async () => {
  const { browser, page, queue, id } = await started();
  const details = [];
  queue.addEventListener("state", ({ detail }) => details.push(detail));
  page.sockets[0].end(4401, "log in");
  await browser.pass(3_600_000);
  assert.deepEqual([page.leftovers, browser.locks.held, page.sockets.length], [NOTHING, [], 1]);
  assert.equal(JSON.stringify(details), '[{"state":"closed","code":4401,"reason":"log in"}]');
  queue.connect();
  assert.equal(queue.state, "connecting");
  await browser.pass(600);
  assert.deepEqual([queue.state, clientOf(page)], ["live", id]);
});

// --- what must not happen ---

test("a pause longer than a browser's longest timer is no busy loop", async () => {
  const { browser, page, queue } = await started();
  page.sockets[0].say('{"type":"netra.retry","after":5184000}'); // 60 days
  await browser.settle();
  page.sockets[0].end(1012);
  page.delays.length = 0;
  await browser.pass(59 * 86_400_000);
  assert.equal(queue.state, "waiting");
  assert.ok(page.delays.length < 5, `${page.delays.length} timers`);
  await browser.pass(86_460_000);
  assert.equal(queue.state, "live");
});

test("timers that come early are no busy loop, and none is set for the past", async () => {
  const { browser, page } = await started();
  page.delays.length = 0;
  for (const timer of page.timers) timer.at = browser.now; // too early
  await browser.pass(10);
  browser.now += 3_600_000; // too late
  await browser.pass(60_000);
  assert.ok(page.delays.length < 40, `${page.delays.length} timers`);
  assert.deepEqual(page.delays.filter((ms) => !(ms >= 0 && ms < 2 ** 31)), []);
});

test("a socket that cannot even be made is tried again", async () => {
  const browser = new Browser();
  browser.throws = "SecurityError";
  const page = browser.tab().open();
  const queue = page.queue();
  await browser.pass(5_000);
  assert.equal(queue.state, "waiting");
  browser.throws = "";
  await browser.pass(30_000);
  assert.equal(queue.state, "live");
});

test("a server that restarts for an hour: pauses grow, and it is there when the server is", async () => {
  const { browser, page, queue } = await started();
  browser.isReachable = false;
  page.sockets[0].end(1012);
  await browser.pass(3_600_000);
  assert.ok(page.sockets.length > 120 && page.sockets.length < 400, `${page.sockets.length} sockets in an hour`);
  browser.isReachable = true;
  await browser.pass(30_000);
  assert.equal(queue.state, "live");
});
