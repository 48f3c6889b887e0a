// What surrounds the protocol in a browser: the socket, the timer, the page's coming and going, what outlives a reload.

import { Protocol, SUBPROTOCOL, SeenIds } from "./protocol.js";

const MOST_FRAMES = 1000;
const MOST_CHARACTERS = 1_000_000;
const CLAIM_MS = 500;
const SLICE_MS = 8;

/**
 * A connection to one queue that lasts. It begins by itself, and goes on until `close()` or a close code 44xx.
 *
 * `url`: absolute, or relative to this page. One NetraQueue for each URL and page; it takes any number of listeners.
 * - `client`: this client's id; "auto": one of this tab's own; "": none (docs/devices.md).
 * - `outbox`: what is sent while offline is kept in "memory", or over a "reload" of the page as well.
 *
 * Messages (QueueMessage) go to `onmessage` and to the listeners of "message", which may return promises, one after the
 * other. A message is acked when all are done with it. When one of them throws, there is an "error" event, and the message
 * comes again after a reconnect. While nobody listens, it waits.
 *
 * Other events, with `detail`: "state" {state, …}, "lost" (counts by reason), "repeat" (a message that had been handled
 * and is not handled again), "error" {error}.
 */
export class NetraQueue extends EventTarget {
  #url;
  #client;
  #keepsOutbox;
  #protocol;
  #tab;
  #socket = null;
  #timer;
  #isStarting = false;
  #watch = null; // as long as it is not closed
  #onmessage = null;
  #listeners = new Set();
  #unheard = null; // the message that nobody has listened to yet
  #sliceEnd = 0;

  constructor(url, { client = "auto", outbox = "memory" } = {}) {
    super();
    if (!["memory", "reload"].includes(outbox)) throw new TypeError(`outbox: expected "memory" or "reload", got ${outbox}`);
    if (!/^[\w-]{0,64}$/.test(client)) throw new TypeError(`client: expected at most 64 of A-Z a-z 0-9 _ -, got ${client}`);
    this.#url = new URL(url, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#client = client;
    this.#keepsOutbox = outbox === "reload";
    this.#tab = new Tab(`netra:${this.#url.pathname}:`);
    this.#protocol = new Protocol();
    this.connect();
  }

  /** connecting, replaying, live, waiting or closed. */
  get state() {
    return this.#isStarting ? "connecting" : this.#protocol.state;
  }

  get onmessage() {
    return this.#onmessage;
  }

  set onmessage(handler) {
    this.#onmessage = handler;
    this.#hear();
  }

  addEventListener(type, listener, options) {
    if (type !== "message") return super.addEventListener(type, listener, options);
    this.#listeners.add(listener);
    this.#hear();
  }

  removeEventListener(type, listener, options) {
    if (type !== "message") return super.removeEventListener(type, listener, options);
    this.#listeners.delete(listener);
  }

  /** Only needed after `close()` or the state "closed": connect again. Does nothing otherwise. */
  async connect() {
    if (this.state !== "closed") return;
    this.#isStarting = true;
    const watch = (this.#watch = this.#watchThePage());
    await this.#begin();
    this.#isStarting = false;
    if (watch === this.#watch) this.#carryOut(this.#protocol.connect(Date.now()));
  }

  /**
   * Send to the consumer's receive: a string as it is, anything else as JSON. The promise is fulfilled when it has been
   * written to a connection; nothing says that the consumer has handled it. While there is no connection it is kept. It is
   * rejected when it cannot be kept, or when the queue is closed.
   */
  send(data) {
    return new Promise((resolve, reject) => {
      const text = typeof data === "string" ? data : JSON.stringify(data);
      const problem = this.#problemWith(data, text);
      if (problem) return reject(problem);
      this.#carryOut(this.#protocol.send({ text, resolve, reject }, Date.now()));
      this.#keepOutbox();
    });
  }

  /** End it, whatever is under way. What was not written yet is rejected. */
  close() {
    this.#carryOut(this.#protocol.close(Date.now()));
    this.#isStarting = false;
    this.#end();
  }

  // --- what the protocol wants ---

  #carryOut(actions) {
    for (const action of actions) this.#do(action);
    clearTimeout(this.#timer);
    const at = this.#protocol.wakeAt;
    if (at !== null) this.#timer = setTimeout(() => this.#carryOut(this.#protocol.tick(Date.now())), at - Date.now());
  }

  #do({ do: what, ...detail }) {
    switch (what) {
      case "connect":
        return this.#open();
      case "disconnect":
        return this.#letGo();
      case "write":
        return this.#write(detail);
      case "handle":
        this.#unheard = new QueueMessage(detail.message);
        return this.#hear();
      case "save":
        return this.#tab.set("seen", [...this.#protocol.seen.ids]);
      case "state":
        this.#emit("state", { state: detail.state, ...detail.detail });
        if (detail.state === "closed") this.#end(detail.detail.reason);
        return;
      default: // lost, repeat, error
        this.#emit(what, detail[what] ?? detail.message ?? detail);
    }
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #open() {
    const socket = (this.#socket = new WebSocket(this.#url, [SUBPROTOCOL]));
    socket.onmessage = ({ data }) => this.#carryOut(this.#protocol.received(data, Date.now()));
    socket.onclose = ({ code, reason }) => this.#carryOut(this.#protocol.disconnected(code, reason, Date.now()));
  }

  #letGo() {
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #write({ text, frame }) {
    if (this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(text);
      frame?.resolve?.();
    } else if (frame) {
      this.#protocol.outbox.push(frame); // it is closing, and would drop this without a word
    }
  }

  // --- handling ---

  #hear() {
    const listeners = this.#onmessage ? [this.#onmessage, ...this.#listeners] : [...this.#listeners];
    if (!this.#unheard || !listeners.length) return;
    const message = this.#unheard;
    this.#unheard = null;
    this.#handle(message, listeners);
  }

  async #handle(message, listeners) {
    try {
      for (const listener of listeners) await (listener.handleEvent?.(message) ?? listener.call(this, message));
    } catch (error) {
      this.#carryOut(this.#protocol.failed(error, Date.now()));
      return;
    }
    await this.#breathe();
    this.#carryOut(this.#protocol.handled(Date.now()));
  }

  /** Let the page draw and respond during a long replay. Not by a timer: those of hidden pages run once a second. */
  async #breathe() {
    if (performance.now() < this.#sliceEnd) return;
    const { port1, port2 } = new MessageChannel();
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
    port1.close();
    this.#sliceEnd = performance.now() + SLICE_MS;
  }

  // --- what is sent while offline ---

  #problemWith(data, text) {
    const { outbox } = this.#protocol;
    if (text === undefined) return new TypeError(`expected something that JSON can say, got ${typeof data}`);
    if (String(data?.type).startsWith("netra.")) return new TypeError(`the type ${data.type} belongs to the protocol`);
    if (!this.#watch) return new Error("the queue is closed");
    const characters = outbox.reduce((sum, frame) => sum + frame.text.length, text.length);
    if (outbox.length >= MOST_FRAMES || characters > MOST_CHARACTERS) return new Error("too much is waiting to be sent");
    return null;
  }

  #keepOutbox() {
    if (!this.#keepsOutbox) return;
    const { outbox } = this.#protocol;
    if (!this.#tab.set("outbox", outbox.map((frame) => frame.text)) && outbox.length) {
      outbox.pop().reject?.(new Error("the browser's storage does not take it"));
    }
  }

  // --- the page ---

  #watchThePage() {
    const watch = new AbortController();
    const { signal } = watch;
    const nudge = () => this.#carryOut(this.#protocol.nudge(Date.now()));
    addEventListener("online", nudge, { signal });
    addEventListener("offline", nudge, { signal }); // browsers err: only a ping tells
    document.addEventListener("visibilitychange", () => document.hidden || nudge(), { signal });
    addEventListener("pagehide", () => this.#leave(), { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && this.#claim().then(nudge), { signal });
    return watch;
  }

  /** Pages with an open socket or a lock are not kept for the back button. */
  #leave() {
    this.#carryOut(this.#protocol.suspend(Date.now()));
    this.#tab.release();
  }

  async #begin() {
    await this.#claim();
    this.#protocol.seen = new SeenIds(this.#tab.get("seen") ?? []);
    const kept = this.#keepsOutbox ? (this.#tab.get("outbox") ?? []) : [];
    this.#protocol.outbox.unshift(...kept.map((text) => ({ text })));
  }

  async #claim() {
    const id = await this.#tab.claim();
    const client = this.#client === "auto" ? id : this.#client;
    if (client) this.#url.searchParams.set("client", client);
  }

  #end(reason) {
    if (!this.#watch) return;
    this.#watch.abort();
    this.#watch = null;
    this.#tab.release();
    const error = new Error(reason || "the queue is closed");
    for (const frame of this.#protocol.outbox.splice(0)) frame.reject?.(error);
    this.#keepOutbox();
  }
}

/** As an event listener would expect it: `data`, `id`, `priority`, `sentAt` (a Date), `replayed`. */
export class QueueMessage extends Event {
  constructor(message) {
    super("message");
    Object.assign(this, message);
  }
}

/**
 * What this tab keeps over a reload, and its id. Browsers copy both into a duplicated tab, and may forbid or limit storage;
 * then memory has to do.
 */
class Tab {
  #prefix;
  #release = null;

  constructor(prefix) {
    this.#prefix = prefix;
  }

  get(name) {
    try {
      return JSON.parse(sessionStorage.getItem(this.#prefix + name));
    } catch {
      return null;
    }
  }

  /** Whether it was kept. */
  set(name, value) {
    try {
      sessionStorage.setItem(this.#prefix + name, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  /** This tab's id. A tab that was duplicated leaves it to the original, and begins with nothing. */
  async claim() {
    const former = this.get("id");
    if (former && (await this.#lock(former))) return former;
    const id = `tab-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;
    for (const [name, value] of [["seen", []], ["outbox", []], ["id", id]]) this.set(name, value);
    await this.#lock(id);
    return id;
  }

  release() {
    if (this.get("id")) this.set("free", this.get("id"));
    this.#release?.();
  }

  /** Whether no other tab has it. Where pages have no locks (plain http), what the page before left says so. */
  async #lock(id) {
    if (!navigator.locks) {
      const isFree = this.get("free") === id;
      this.set("free", null);
      return isFree;
    }
    return new Promise((resolve) => {
      const hold = () => {
        resolve(true);
        return new Promise((release) => (this.#release = release));
      };
      // A page that is reloaded may hold its lock for a moment.
      navigator.locks.request(this.#prefix + id, { signal: AbortSignal.timeout(CLAIM_MS) }, hold).catch(() => resolve(false));
    });
  }
}
