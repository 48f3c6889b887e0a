// A browser without a browser: tabs and their storage, pages with globals of their own, locks, sockets to a Line, and a
// clock that moves when told.

import { loadInto } from "./client.mjs";
import { Line, makeMessage, seeded } from "./server.mjs";

/** Node 18 has none. */
const CustomEvent =
  globalThis.CustomEvent ??
  class extends Event {
    constructor(type, { detail, ...options } = {}) {
      super(type, options);
      this.detail = detail;
    }
  };

const HREF = "https://example.org/inbox?folder=3#top";

/** Counts what is listened to. Node 18 may forget a signal when it collects garbage; this does not. */
class CountingTarget extends EventTarget {
  count = 0;

  addEventListener(type, listener, { signal } = {}) {
    super.addEventListener(type, listener);
    this.count += 1;
    signal?.addEventListener("abort", () => {
      super.removeEventListener(type, listener);
      this.count -= 1;
    });
  }
}

/** navigator.locks of an origin. */
class Locks {
  holders = new Map(); // name: the requests, the holder first

  request(name, { signal }, callback) {
    return new Promise((resolve, reject) => {
      const requests = this.holders.get(name) ?? [];
      this.holders.set(name, requests);
      const request = { begin: () => Promise.resolve(callback({ name })).then(resolve, reject).finally(leave) };
      const leave = () => {
        const wasFirst = requests[0] === request;
        requests.splice(requests.indexOf(request), 1);
        if (wasFirst) requests[0]?.begin();
      };
      signal?.addEventListener("abort", () => {
        if (requests.indexOf(request) > 0) leave();
        reject(new Error("aborted"));
      });
      requests.push(request);
      if (requests[0] === request) setImmediate(request.begin);
    });
  }

  get held() {
    return [...this.holders].filter(([, requests]) => requests.length).map(([name]) => name);
  }
}

/** sessionStorage of a tab; `most`: characters. */
class Storage {
  constructor(values = []) {
    this.values = new Map(values);
    this.most = Infinity;
    this.writes = 0;
  }

  getItem(key) {
    return this.values.get(key) ?? null;
  }

  setItem(key, value) {
    const others = [...this.values].filter(([other]) => other !== key).reduce((sum, [, text]) => sum + text.length, 0);
    if (others + value.length > this.most) throw new Error("QuotaExceededError");
    this.values.set(key, value);
    this.writes += 1;
  }
}

export class Browser {
  now = 1_700_000_000_000;
  timers = new Set(); // {at, run, page}
  pending = 0; // what will happen without the clock
  isReachable = true;
  random = seeded(1);
  locks = new Locks();
  lines = new Map(); // client: Line
  sockets = [];

  line(client, options) {
    if (!this.lines.has(client)) this.lines.set(client, new Line(options));
    return this.lines.get(client);
  }

  later(run) {
    this.pending += 1;
    setImmediate(() => {
      this.pending -= 1;
      run();
    });
  }

  /** Until nothing happens any more unless the clock moves. */
  async settle() {
    for (let quiet = 0; quiet < 6; quiet = this.pending ? 0 : quiet + 1) await new Promise(setImmediate);
  }

  async pass(ms) {
    const end = this.now + ms;
    await this.settle();
    for (let runs = 0; ; runs += 1) {
      const [next] = [...this.timers].sort((a, b) => a.at - b.at);
      if (!next || next.at > end) break;
      if (runs > 5_000) throw new Error("a busy loop");
      this.now = Math.max(this.now, next.at);
      this.timers.delete(next);
      next.run();
      await this.settle();
    }
    this.now = Math.max(this.now, end);
  }

  setTimeout(run, ms, page) {
    const timer = { at: this.now + (ms > 2 ** 31 - 1 || !(ms > 0) ? 0 : ms), run, page };
    this.timers.add(timer);
    return timer;
  }

  tab(options) {
    return new Tab(this, options);
  }
}

class Tab {
  constructor(browser, { values = [], hasLocks = true, isForbidden = false } = {}) {
    this.browser = browser;
    this.storage = new Storage(values);
    Object.assign(this, { hasLocks, isForbidden });
  }

  open() {
    this.page = new Page(this);
    return this.page;
  }

  /** The page goes, and comes again. */
  async reload() {
    this.page.hide();
    this.page.die();
    return this.open();
  }

  duplicate() {
    return new Tab(this.browser, { values: this.storage.values, hasLocks: this.hasLocks });
  }
}

class Page {
  constructor(tab) {
    this.tab = tab;
    this.browser = tab.browser;
    this.window = new CountingTarget();
    this.document = Object.assign(new CountingTarget(), { hidden: false });
    this.errors = [];
    this.delays = [];
    this.ports = 0;
    this.end = new Promise((resolve) => (this.die = () => this.#die(resolve)));
    this.exports = loadInto(this.#globals());
  }

  #globals() {
    const { browser, tab, window } = this;
    const page = this;
    const globals = { URL, EventTarget, Event, CustomEvent, AbortController, atob, document: this.document };
    Object.assign(globals, {
      location: { href: HREF },
      navigator: tab.hasLocks ? { locks: this.#locks() } : {},
      addEventListener: window.addEventListener.bind(window),
      WebSocket: class extends Socket {
        constructor(...given) {
          super(page, ...given);
        }
      },
      setTimeout: (run, ms) => (this.delays.push(ms), browser.setTimeout(run, ms, this)),
      clearTimeout: (timer) => browser.timers.delete(timer),
      AbortSignal: { timeout: (ms) => this.#timeoutSignal(ms) },
      Date: class extends Date {
        static now = () => browser.now;
      },
      performance: { now: () => browser.now },
      Math: Object.assign(Object.create(Math), { random: browser.random }),
      crypto: { getRandomValues: (array) => array.map(() => browser.random() * 2 ** 32) },
      console: { error: (...given) => this.errors.push(given) },
      MessageChannel: this.#channels(),
    });
    Object.defineProperty(globals, "sessionStorage", {
      get() {
        if (tab.isForbidden) throw new Error("SecurityError");
        return page.isDead ? new Storage() : tab.storage;
      },
    });
    return globals;
  }

  #locks() {
    const request = (name, options, callback) => {
      if (this.tab.isForbidden) return Promise.reject(new Error("SecurityError"));
      const held = () => Promise.race([callback(), this.end]);
      return this.browser.locks.request(name, options, held);
    };
    return { request };
  }

  #timeoutSignal(ms) {
    const controller = new AbortController();
    this.browser.setTimeout(() => controller.abort(), ms, null);
    return controller.signal;
  }

  #channels() {
    const page = this;
    return class {
      constructor() {
        page.ports += 1;
        this.port1 = { onmessage: null, close: () => (page.ports -= 1) };
        this.port2 = { postMessage: () => page.browser.later(() => page.isDead || this.port1.onmessage?.({})) };
      }
    };
  }

  queue(url = "/ws/", options = {}) {
    const queue = new this.exports.NetraQueue(url, options);
    const states = [];
    queue.addEventListener("state", ({ detail }) => states.push(detail.state));
    return Object.assign(queue, { states });
  }

  get sockets() {
    return this.browser.sockets.filter(({ page }) => page === this);
  }

  get timers() {
    return [...this.browser.timers].filter(({ page }) => page === this);
  }

  /** How many timers, listeners, ports and open sockets are left. */
  get leftovers() {
    const { timers, window, document, ports } = this;
    const open = this.sockets.filter(({ readyState }) => readyState < 2).length;
    return { timers: timers.length, listeners: window.count + document.count, ports, open };
  }

  fire(type, fields = {}) {
    this.window.dispatchEvent(Object.assign(new Event(type), fields));
  }

  see(isSeen) {
    this.document.hidden = !isSeen;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  /** It is left: for good, or to be kept for the back button. */
  hide() {
    this.fire("pagehide", { persisted: true });
    this.see(false);
  }

  show() {
    this.see(true);
    this.fire("pageshow", { persisted: true });
  }

  /** Nothing of it runs any more. */
  #die(resolve) {
    this.isDead = true;
    resolve();
    for (const socket of this.sockets) socket.vanish();
    for (const timer of this.timers) this.browser.timers.delete(timer);
  }
}

class Socket {
  static OPEN = 1;
  onmessage = null;
  onclose = null;
  readyState = 0;
  sent = [];

  constructor(page, url, protocols) {
    this.page = page;
    this.browser = page.browser;
    this.url = new URL(url);
    this.protocols = [...protocols];
    if (this.browser.throws) throw new Error(this.browser.throws);
    this.browser.sockets.push(this);
    this.browser.later(() => (this.browser.isReachable ? this.#open() : this.end(1006)));
  }

  get line() {
    return this.browser.line(this.url.searchParams.get("client"));
  }

  #open() {
    if (this.readyState) return;
    this.readyState = 1;
    this.connection = { receive() {} };
    this.connection = this.line.open((frame) => this.say(JSON.stringify(frame)));
  }

  say(text) {
    this.browser.later(() => this.readyState < 2 && this.onmessage?.({ data: text }));
  }

  send(text) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    this.sent.push(text);
    if (this.readyState === 1 && !this.isCut) this.connection.receive(text);
  }

  close() {
    this.readyState = Math.max(this.readyState, 2);
    this.browser.later(() => this.end(1005));
  }

  /** The server or the network ends it. */
  end(code, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  vanish() {
    this.readyState = 3;
    this.onmessage = this.onclose = null;
  }
}

// --- what tests begin with ---

export const clientOf = (page) => page.sockets.at(-1)?.url.searchParams.get("client");
export const openSockets = (page) => page.sockets.filter(({ readyState }) => readyState < 2);

/** A page whose queue is live, and what it has handled. */
export async function live(tab, options) {
  const page = tab.page && !tab.page.isDead && !tab.page.queueOfIt ? tab.page : tab.open();
  page.got = [];
  page.queueOfIt = page.queue("/ws/", options);
  page.queueOfIt.onmessage = ({ data }) => page.got.push(data);
  await tab.browser.pass(600);
  return page;
}

export async function started(tabOptions, options) {
  const browser = new Browser();
  const tab = browser.tab(tabOptions);
  const page = await live(tab, options);
  return { browser, tab, page, queue: page.queueOfIt, id: clientOf(page) };
}

export async function push(page, ...data) {
  const { line } = page.sockets.at(-1);
  line.messages.push(...data.map((one) => makeMessage(one)));
  line.connection.transmit();
  await page.browser.settle();
}
