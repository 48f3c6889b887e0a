// What the page sends to the consumer: at once, kept while offline, or refused with a word why.

import assert from "node:assert/strict";
import test from "node:test";

import { Browser } from "./browser.mjs";
import { golden } from "./client.mjs";

const OWN = ["frame", "list", "mentions_netra", "not_json", "prefix_without_dot", "type_is_no_text"];
const CONTROL = ["ack", "ack_spaced", "ping", "malformed_bare_prefix", "malformed_servers_frame", "malformed_unknown"];

function started(options, tabOptions) {
  const browser = new Browser();
  const tab = browser.tab(tabOptions);
  const page = tab.open();
  return { browser, tab, page, queue: page.queue("/ws/", { client: "p", ...options }) };
}

async function opened(options, tabOptions) {
  const all = started(options, tabOptions);
  await all.browser.settle();
  return all;
}

async function offline(options, tabOptions) {
  const all = await opened(options, tabOptions);
  all.browser.isReachable = false;
  all.page.sockets[0].end(1006);
  return all;
}

const own = (page) => page.sockets.flatMap(({ sent }) => sent).filter((text) => !text.includes('"netra.'));

test("online, it is written at once: a string as it is, anything else as JSON", async () => {
  const { queue, page } = await opened();
  await Promise.all([queue.send({ n: 1 }), queue.send("plain"), queue.send([2]), queue.send(null), queue.send("")]);
  assert.deepEqual(own(page), ['{"n":1}', "plain", "[2]", "null", ""]);
});

for (const name of OWN.map((end) => `own_${end}`)) {
  test(`the application's own: ${golden(name).name}`, async () => {
    const { queue, page } = await opened();
    await queue.send(golden(name).frame);
    assert.deepEqual(page.sockets[0].sent, [golden(name).frame]);
  });
}

for (const name of CONTROL) {
  test(`refused: ${golden(name).name}`, async () => {
    const { queue, page } = await opened();
    await assert.rejects(queue.send(golden(name).frame), /netra\. belongs to the protocol/);
    await assert.rejects(queue.send(JSON.parse(golden(name).frame)), /netra\. belongs to the protocol/);
    assert.deepEqual(page.sockets[0].sent, []);
  });
}

test("refused: what JSON cannot say", async () => {
  const { queue } = await opened();
  const circle = {};
  circle.circle = circle;
  await assert.rejects(queue.send(undefined), /JSON can say, got undefined/);
  await assert.rejects(queue.send(() => {}), /JSON can say, got function/);
  await assert.rejects(queue.send(circle), /circular/);
  await assert.rejects(queue.send({ n: 1n }), /BigInt/);
});

test("before the first connection it is kept, in order", async () => {
  const { queue, page, browser } = started();
  const sent = [1, 2, 3].map((n) => queue.send({ n }));
  await browser.settle();
  await Promise.all(sent);
  assert.deepEqual(own(page), ['{"n":1}', '{"n":2}', '{"n":3}']);
});

test("offline it is kept, and fulfilled when it is written", async () => {
  const { queue, page, browser } = await offline();
  const fulfilled = [];
  for (const n of [1, 2, 3]) queue.send(`${n}`).then(() => fulfilled.push(n));
  await browser.pass(60_000);
  assert.deepEqual(fulfilled, []);
  browser.isReachable = true;
  await browser.pass(30_000);
  assert.deepEqual(fulfilled, [1, 2, 3]);
  assert.deepEqual(own(page), ["1", "2", "3"]);
});

test("on a socket that is closing it is kept too, in order", async () => {
  const { queue, page, browser } = await opened();
  page.sockets[0].readyState = 2;
  const sent = [queue.send("1"), queue.send("2")];
  page.sockets[0].end(1012);
  sent.push(queue.send("3"));
  await browser.pass(1_000);
  await Promise.all(sent);
  assert.deepEqual(page.sockets.map(({ sent: texts }) => texts), [[], ["1", "2", "3"]]);
});

test("too much is refused, by count and by size", async () => {
  const { queue, browser, page } = await offline();
  const kept = Array.from({ length: 1000 }, (_, n) => queue.send(`${n}`));
  await assert.rejects(queue.send("one more"), /too much is waiting/);
  browser.isReachable = true;
  await browser.pass(30_000);
  await Promise.all(kept);
  assert.equal(own(page).length, 1000);
  const other = await offline();
  const large = other.queue.send("x".repeat(900_000));
  await assert.rejects(other.queue.send("y".repeat(200_000)), /too much is waiting/);
  other.queue.close();
  await assert.rejects(large, /the queue is closed/);
});

test("closed: what waits and what comes is refused", async () => {
  const { queue } = await offline();
  const waiting = queue.send("1");
  queue.close();
  await assert.rejects(waiting, /the queue is closed/);
  await assert.rejects(queue.send("2"), /the queue is closed/);
});

test("closed by a 44xx: refused with its reason", async () => {
  const { queue, page, browser } = await opened();
  page.sockets[0].readyState = 2;
  const waiting = queue.send("1");
  page.sockets[0].end(4401, "log in");
  await assert.rejects(waiting, /closed by the server: 4401 log in/);
  await assert.rejects(queue.send("2"), /the queue is closed/);
  queue.connect();
  await queue.send("3");
  assert.deepEqual(own(page), ["3"]);
  await browser.settle();
});

test("closed while it is about to be written", async () => {
  const { queue, page, browser } = await offline();
  const waiting = queue.send("1");
  browser.isReachable = true;
  queue.addEventListener("state", ({ detail }) => {
    if (detail.state !== "replaying") return;
    page.sockets.at(-1).readyState = 2;
    queue.close();
  });
  const refused = assert.rejects(waiting, /the queue is closed/);
  await browser.pass(30_000);
  await refused;
});

// --- over a reload ---

const kept = (tab) => JSON.parse(tab.storage.getItem("netra:/ws/:outbox"));

test("in memory, a reload forgets it", async () => {
  const { queue, tab, browser } = await offline();
  queue.send("1");
  const page = await tab.reload();
  browser.isReachable = true;
  page.queue("/ws/", { client: "p" });
  await browser.pass(1_000);
  assert.deepEqual([own(page), kept(tab)], [[], []]);
});

test("kept over a reload, before what the new page sends, each once", async () => {
  const { queue, tab, browser } = await offline({ outbox: "reload" });
  for (const n of [1, 2]) queue.send(`${n}`);
  assert.deepEqual(kept(tab), ["1", "2"]);
  const page = await tab.reload();
  const again = page.queue("/ws/", { client: "p", outbox: "reload" });
  const early = again.send("3"); // before it knows what was kept
  assert.deepEqual(kept(tab), ["1", "2"]);
  await browser.settle();
  again.send("4");
  assert.deepEqual(kept(tab), ["1", "2", "3", "4"]);
  browser.isReachable = true;
  await browser.pass(2_000);
  await early;
  assert.deepEqual(own(page), ["1", "2", "3", "4"]);
  assert.deepEqual(kept(tab), [], "written, so not for the next page");
  const third = await tab.reload();
  third.queue("/ws/", { client: "p", outbox: "reload" });
  await browser.settle();
  assert.deepEqual(own(third), []);
});

test("after close() and connect(), a frame is not called written before it is", async () => {
  const { queue, browser } = await offline({ outbox: "reload" });
  queue.close();
  queue.connect();
  let isWritten = false;
  const sent = queue.send("1").then(() => (isWritten = true));
  await browser.pass(1_000);
  assert.equal(isWritten, false);
  browser.isReachable = true;
  await browser.pass(10_000);
  await sent;
});

test("online, the storage is left alone", async () => {
  const { queue, tab } = await opened({ outbox: "reload" });
  const before = tab.storage.writes;
  await queue.send("1");
  assert.equal(tab.storage.writes, before);
});

test("refused when the storage does not take it; what it has taken stays", async () => {
  const { queue, tab, browser, page } = await offline({ outbox: "reload" });
  const first = queue.send("1");
  tab.storage.most = 100;
  await assert.rejects(queue.send("x".repeat(200)), /storage does not take it/);
  const second = queue.send("2");
  assert.deepEqual(kept(tab), ["1", "2"]);
  browser.isReachable = true;
  await browser.pass(2_000);
  await Promise.all([first, second]);
  assert.deepEqual(own(page), ["1", "2"]);
});

test("refused where storage is forbidden, unless it can be written at once", async () => {
  const { queue, browser, page } = await opened({ outbox: "reload" }, { isForbidden: true });
  await queue.send("1");
  browser.isReachable = false;
  page.sockets[0].end(1006);
  await assert.rejects(queue.send("2"), /storage does not take it/);
});

test("what a former page kept and nobody can send any more is told", async () => {
  const { queue, tab, browser } = await offline({ outbox: "reload" });
  queue.send("1");
  const page = await tab.reload();
  const again = page.queue("/ws/", { client: "p", outbox: "reload" });
  const errors = [];
  again.addEventListener("error", ({ detail }) => errors.push(detail.error.message));
  await browser.settle();
  again.close();
  assert.deepEqual(errors, ["the queue is closed"]);
  assert.deepEqual(kept(tab), []);
});

test("closed before it knows what a former page kept, it leaves that alone", async () => {
  const { queue, tab } = await offline({ outbox: "reload" });
  queue.send("1");
  const page = await tab.reload();
  page.queue("/ws/", { client: "p", outbox: "reload" }).close();
  assert.deepEqual(kept(tab), ["1"]);
});

test("a page that comes back does not send what another page of this tab has sent", async () => {
  const { queue, tab, page, browser } = await offline({ outbox: "reload" });
  const sent = queue.send("1");
  page.hide();
  const other = tab.open();
  const elsewhere = other.queue("/ws/", { client: "p", outbox: "reload" });
  await browser.settle();
  browser.isReachable = true;
  await browser.pass(2_000);
  assert.deepEqual(own(other), ["1"]);
  elsewhere.send("2");
  other.hide();
  other.die();
  page.show();
  await browser.pass(2_000);
  await sent;
  assert.equal(queue.state, "live");
  assert.deepEqual(own(page), []);
});
