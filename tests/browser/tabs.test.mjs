// Tabs and what they keep: reload, duplicate, and storage that fails.

import assert from "node:assert/strict";
import test from "node:test";

import { clientOf, live, push, started } from "./browser.mjs";
import { makeMessage } from "./server.mjs";

for (const hasLocks of [true, false]) {
  const where = hasLocks ? "" : ", where there are no locks";

  test(`a reload keeps the id and drops repeats${where}`, async () => {
    const { browser, tab, page, id } = await started({ hasLocks });
    page.sockets[0].isCut = true; // no ack arrives any more
    await push(page, 1, 2);
    await tab.reload();
    const again = await live(tab);
    assert.equal(clientOf(again), id);
    await push(again, 3);
    assert.deepEqual(again.got, [3]);
    await browser.pass(100);
    assert.deepEqual(browser.line(id).messages, []);
  });

  test(`a page that is left at any moment has handled a message and knows it, or neither${where}`, async () => {
    for (let turns = 0; turns < 12; turns += 1) {
      const { browser, tab, page, id } = await started({ hasLocks });
      const { line } = page.sockets[0];
      line.messages.push(makeMessage(1), makeMessage(2), makeMessage(3));
      line.connection.transmit();
      for (let turn = 0; turn < turns; turn += 1) {
        browser.now += 3; // a slice is over now and then
        await new Promise(setImmediate);
      }
      await tab.reload();
      const again = await live(tab);
      await browser.pass(5_000);
      assert.deepEqual([...page.got, ...again.got], [1, 2, 3], `left after ${turns} turns`);
      assert.deepEqual(browser.line(id).messages, []);
    }
  });

  test(`a duplicated tab has an id of its own and handles everything${where}`, async () => {
    const { browser, tab, page, id } = await started({ hasLocks }, { outbox: "reload" });
    page.sockets[0].isCut = true;
    await push(page, 1);
    await browser.pass(100); // what was seen is in the storage
    browser.isReachable = false;
    page.sockets[0].end(1006);
    page.queueOfIt.send("mine");
    const copy = tab.duplicate();
    const twin = await live(copy, { outbox: "reload" });
    browser.isReachable = true;
    await browser.pass(20_000);
    assert.notEqual(clientOf(twin), id);
    assert.equal(clientOf(page), id);
    assert.deepEqual(browser.line(clientOf(twin)).connection.own, [], "what waits is sent by one of them");
    assert.deepEqual(browser.line(id).connection.own, ["mine"]);
    await copy.reload();
    const twinAgain = await live(copy);
    assert.equal(clientOf(twinAgain), clientOf(twin), "its own, from then on");
  });

  test(`a tab that was reloaded and then duplicated keeps its id for itself${where}`, async () => {
    const { tab, id } = await started({ hasLocks });
    await tab.reload();
    const page = await live(tab);
    const twin = await live(tab.duplicate());
    assert.deepEqual([clientOf(page), clientOf(twin) === id], [id, false]);
  });

  test(`a queue that is closed before it has an id leaves the original's alone${where}`, async () => {
    const { browser, tab, id } = await started({ hasLocks });
    const copy = tab.duplicate();
    const twin = copy.open();
    twin.queue().close(); // as frameworks do that try each effect twice
    const queue = twin.queue();
    queue.close();
    queue.connect();
    await browser.pass(1_000);
    assert.deepEqual([queue.state, clientOf(twin) === id], ["live", false]);
  });

  test(`a tab duplicated twice, then closed, leaves no id behind${where}`, async () => {
    const { browser, tab, id } = await started({ hasLocks });
    const twins = [await live(tab.duplicate()), await live(tab.duplicate())];
    assert.equal(new Set([id, ...twins.map(clientOf)]).size, 3);
    for (const page of [tab.page, ...twins]) page.queueOfIt.close();
    await browser.settle();
    assert.deepEqual(browser.locks.held, []);
  });
}

test("a reload waits for the lock of a page that is slow to go", async () => {
  const { browser, tab, page, id } = await started();
  let free;
  browser.locks.request(`netra:/ws/:${id}`, {}, () => new Promise((resolve) => (free = resolve)));
  page.hide(); // the request above is next
  page.die();
  const again = tab.open();
  again.queue("/ws/");
  await browser.pass(3_000);
  assert.equal(again.sockets.length, 0);
  free();
  await browser.pass(100);
  assert.equal(clientOf(again), id);
});

test("a tab whose page was killed keeps its id", async () => {
  const { tab, page, id } = await started();
  page.die(); // no pagehide
  assert.equal(clientOf(await live(tab)), id);
});

// --- storage ---

test("storage forbidden: it works, and remembers as long as the page lives", async () => {
  const { browser, page, queue } = await started({ isForbidden: true }, { client: "p" });
  page.sockets[0].isCut = true;
  await push(page, 1);
  queue.close();
  queue.connect();
  await browser.pass(1_000);
  await push(page, 2);
  assert.deepEqual(page.got, [1, 2]);
  assert.match((await started({ isForbidden: true })).id, /^tab-/);
});

test("close() and connect() keep the id, storage forbidden or not", async () => {
  for (const options of [{}, { hasLocks: false }]) {
    const { browser, page, queue, id } = await started(options);
    for (let n = 0; n < 3; n += 1) {
      queue.close();
      queue.connect();
      await browser.pass(600);
      assert.equal(clientOf(page), id);
    }
  }
});

test("storage full: it works", async () => {
  const { browser, tab, page } = await started();
  tab.storage.most = 0;
  await push(page, 1, 2);
  await browser.pass(100);
  page.sockets[0].end(1006);
  await browser.pass(1_000);
  await push(page, 3);
  assert.deepEqual(page.got, [1, 2, 3]);
});

test("storage that holds nonsense: it works", async () => {
  for (const nonsense of ["{", "7", '{"a":1}', "null", '"x"']) {
    const values = ["seen", "outbox", "free"].map((name) => [`netra:/ws/:${name}`, nonsense]);
    const { page } = await started({ values }, { outbox: "memory" });
    await push(page, 1);
    assert.deepEqual(page.got, [1]);
  }
});
