// What surrounds the protocol in a browser: the socket, the timer, the page's coming and going, what outlives a reload.

import { Protocol, SUBPROTOCOL, SeenIds } from "./protocol.js";

const MOST_FRAMES = 1000;
const MOST_CHARACTERS = 1_000_000;
const CLAIM_MS = 500;
const RELOAD_MS = 5_000;
const SLICE_MS = 8;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // browsers take a longer one for none

/** A connection to one queue that lasts. What it offers is described in client.d.ts and docs/client.md. */
export class NetraQueue extends EventTarget {
  #url;
  #client;
  #keepsOutbox;
  #kept = 0; // how many frames of the outbox are in the storage
  #protocol;
  #tab;
  #socket = null;
  #timer;
  #actions = [];
  #isActing = false;
  #watch = null; // as long as it is not closed
  #isClaimed = false; // this tab has its id, and what the page before left
  #visit = null; // as long as it is not closed, and the page is not in the back/forward cache
  #started = Promise.resolve();
  #onmessage = null;
  #listeners = new Map();
  #unheard = null; // the message that nobody has listened to yet
  #sliceEnd = 0;

  constructor(url, { client = "auto", outbox = "memory" } = {}) {
    super();
    check(["memory", "reload"].includes(outbox), `outbox: expected "memory" or "reload", got ${outbox}`);
    check(/^[\w-]{0,64}$/.test(client), `client: expected at most 64 of A-Z a-z 0-9 _ -, got ${client}`);
    this.#url = new URL(url, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#url.hash = "";
    check(/^wss?:$/.test(this.#url.protocol), `url: expected one of ws, wss, http, https, got ${url}`);
    this.#client = client;
    this.#keepsOutbox = outbox === "reload";
    this.#tab = new Tab(`netra:${this.#url.pathname}:`);
    this.#protocol = new Protocol();
    this.connect();
  }

  get state() {
    const { state } = this.#protocol;
    return this.#watch && state === "closed" ? "connecting" : state;
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
    const { once = false, signal } = Object(options);
    if (!listener || signal?.aborted || this.#listeners.has(listener)) return;
    signal?.addEventListener("abort", () => this.#listeners.delete(listener));
    this.#listeners.set(listener, once);
    this.#hear();
  }

  removeEventListener(type, listener, options) {
    if (type !== "message") return super.removeEventListener(type, listener, options);
    this.#listeners.delete(listener);
  }

  connect() {
    if (this.#watch) return;
    this.#watchThePage();
    this.#start();
  }

  send(data) {
    return new Promise((resolve, reject) => {
      const text = typeof data === "string" ? data : JSON.stringify(data);
      this.#refuse(data, text);
      this.#carryOut(this.#protocol.send({ text, resolve, reject }, Date.now()));
    });
  }

  close() {
    if (!this.#watch) return;
    const actions = this.#protocol.close(Date.now());
    this.#end();
    this.#carryOut(actions.length ? actions : [{ do: "state", state: "closed", detail: {} }]);
  }

  // --- what the protocol wants ---

  /** Listeners may call us, while we are at it: what that gives comes after the rest. */
  #carryOut(actions) {
    this.#actions.push(...actions);
    if (this.#isActing) return;
    this.#isActing = true;
    try {
      while (this.#actions.length) this.#do(this.#actions.shift());
    } finally {
      this.#isActing = false;
    }
    this.#keepOutbox();
    clearTimeout(this.#timer);
    const at = this.#protocol.wakeAt;
    if (at === null) return;
    const ms = Math.min(Math.max(0, at - Date.now()), LONGEST_TIMER_MS);
    this.#timer = setTimeout(() => this.#carryOut(this.#protocol.tick(Date.now())), ms);
  }

  #do({ do: what, text, frame, message, state, detail, lost, error }) {
    switch (what) {
      case "connect":
        return this.#open();
      case "disconnect":
        return this.#letGo();
      case "write":
        return this.#write(text, frame);
      case "handle":
        this.#unheard = new QueueMessage(message);
        return this.#watch ? this.#hear() : this.#forget();
      case "save":
        return this.#tab.set("seen", [...this.#protocol.seen.ids]);
      case "state":
        return this.#emit(what, { state, ...detail });
      case "error":
        return this.#emit(what, { error }) && console.error(error);
      default: // lost, repeat
        return this.#emit(what, lost ?? message);
    }
  }

  /** Whether nobody has prevented the default. */
  #emit(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: type === "error" }));
  }

  #open() {
    try {
      this.#socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    } catch (error) {
      return this.#carryOut(this.#protocol.disconnected(1006, error.message, Date.now()));
    }
    this.#socket.onmessage = ({ data }) => this.#carryOut(this.#protocol.received(data, Date.now()));
    this.#socket.onclose = ({ code, reason }) => {
      this.#letGo();
      const actions = this.#protocol.disconnected(code, reason, Date.now());
      if (this.#protocol.state === "closed") this.#end(`closed by the server: ${code} ${reason}`);
      this.#carryOut(actions);
    };
  }

  #letGo() {
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #write(text, frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(text);
      frame?.resolve?.();
    } else if (frame) {
      // It is closing, and would drop this without a word.
      if (this.#watch) this.#protocol.outbox.push(frame);
      else frame.reject(new Error(CLOSED));
    }
  }

  // --- handling ---

  #hear() {
    const listeners = this.#onmessage ? [this.#onmessage, ...this.#listeners.keys()] : [...this.#listeners.keys()];
    if (!this.#unheard || !listeners.length) return;
    if (performance.now() >= this.#sliceEnd) return this.#breathe();
    const message = this.#unheard;
    this.#unheard = null;
    this.#handle(message, listeners);
  }

  /**
   * Let the page draw and respond during a long replay. Not by a timer: those of hidden pages run once a second. And
   * before a message, not after it: a page that is left meanwhile has not handled it.
   */
  #breathe() {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      this.#sliceEnd = performance.now() + SLICE_MS;
      this.#hear();
    };
    port2.postMessage(null);
  }

  /** Closed before anybody listened. */
  #forget() {
    if (this.#unheard) this.#unheard = this.#protocol.busy = null;
  }

  async #handle(message, listeners) {
    try {
      for (const listener of listeners) {
        if (this.#listeners.get(listener)) this.#listeners.delete(listener); // it wanted one only
        await (listener.handleEvent ? listener.handleEvent(message) : listener.call(this, message));
      }
    } catch (error) {
      return this.#carryOut(this.#protocol.failed(error, Date.now()));
    }
    this.#carryOut(this.#protocol.handled(Date.now()));
  }

  // --- what is sent while offline ---

  #refuse(data, text) {
    const { outbox } = this.#protocol;
    check(text !== undefined, `expected something that JSON can say, got ${typeof data}`);
    check(!isControl(text), "a type that begins with netra. belongs to the protocol");
    if (!this.#watch) throw new Error(CLOSED);
    const characters = outbox.reduce((sum, frame) => sum + frame.text.length, text.length);
    if (outbox.length >= MOST_FRAMES || characters > MOST_CHARACTERS) throw new Error("too much is waiting to be sent");
  }

  #keepOutbox() {
    const { outbox } = this.#protocol;
    if (!this.#keepsOutbox || !this.#isClaimed || outbox.length === this.#kept) return;
    while (!this.#tab.set("outbox", outbox.map((frame) => frame.text)) && outbox.length > this.#kept) {
      outbox.pop().reject(new Error("the browser's storage does not take it"));
    }
    this.#kept = outbox.length;
  }

  // --- the page ---

  #watchThePage() {
    this.#watch = new AbortController();
    const { signal } = this.#watch;
    const back = () => this.#comeBack();
    addEventListener("online", back, { signal });
    // Browsers err: only a ping tells.
    addEventListener("offline", () => this.#protocol.isConnected && back(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || back(), { signal });
    addEventListener("pagehide", () => this.#leave(), { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && back(), { signal });
  }

  /** Pages with an open socket or a lock are not kept for the back button. */
  #leave() {
    this.#visit = null;
    this.#carryOut(this.#protocol.suspend(Date.now()));
    this.#tab.release();
  }

  #comeBack() {
    if (this.#visit) this.#carryOut(this.#protocol.nudge(Date.now()));
    else this.#start();
  }

  /** One start after the other, however fast `close` and `connect` are called, or the page goes and comes. */
  #start() {
    const visit = (this.#visit = {});
    const isWanted = () => visit === this.#visit;
    this.#started = this.#started.then(async () => {
      if (!isWanted()) return;
      const id = await this.#tab.claim();
      if (!isWanted()) return this.#tab.release();
      const client = this.#client === "auto" ? id : this.#client;
      if (client) this.#url.searchParams.set("client", client);
      this.#recall();
      const now = Date.now();
      this.#carryOut(this.#protocol.state === "closed" ? this.#protocol.connect(now) : this.#protocol.nudge(now));
    });
  }

  /** What pages of this tab have left, this one included. Another one may have sent what this one had kept. */
  #recall() {
    this.#protocol.seen = new SeenIds([...this.#protocol.seen.ids, ...this.#tab.list("seen")]);
    if (!this.#keepsOutbox) return;
    const { outbox } = this.#protocol;
    if (this.#isClaimed) for (const frame of outbox.splice(0)) frame.resolve?.();
    const reject = (error) => this.#carryOut([{ do: "error", error }]);
    const kept = this.#tab.list("outbox").map((text) => ({ text, reject }));
    outbox.unshift(...kept);
    this.#kept = kept.length;
    this.#isClaimed = true;
  }

  #end(reason = CLOSED) {
    this.#watch.abort();
    this.#watch = this.#visit = null;
    this.#forget();
    for (const frame of this.#protocol.outbox.splice(0)) frame.reject(new Error(reason));
    this.#keepOutbox();
    this.#isClaimed = false;
    this.#tab.release();
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
 * What this tab keeps over a reload, and its id. Browsers copy both into a duplicated tab, and may forbid or limit
 * storage; then memory has to do.
 */
class Tab {
  #prefix;
  #id;
  #isMine = false;
  #release;

  constructor(prefix) {
    this.#prefix = prefix;
    this.#id = this.#get("id");
  }

  #get(name) {
    try {
      return JSON.parse(sessionStorage.getItem(this.#prefix + name));
    } catch {
      return null;
    }
  }

  list(name) {
    return [].concat(this.#get(name) ?? []);
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
    if (this.#id && (await this.#lock(this.#id))) return this.#own();
    this.#id = `tab-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;
    for (const [name, value] of [["seen", []], ["outbox", []], ["id", this.#id]]) this.set(name, value);
    await this.#lock(this.#id);
    return this.#own();
  }

  #own() {
    this.#isMine = true;
    return this.#id;
  }

  release() {
    if (this.#isMine) this.set("free", this.#id);
    this.#isMine = false;
    this.#release?.();
  }

  /** Whether no other tab has it. Where pages have no locks (plain http), what the page before left says so. */
  #lock(id) {
    const isLeft = this.#get("free") === id;
    this.set("free", null);
    if (!navigator.locks) return isLeft;
    const released = new Promise((release) => (this.#release = release));
    // The page before may hold its lock for a moment: it has just been reloaded.
    const signal = AbortSignal.timeout(isLeft ? RELOAD_MS : CLAIM_MS);
    return new Promise((resolve) => {
      const hold = () => resolve(true) ?? released;
      navigator.locks.request(this.#prefix + id, { signal }, hold).catch(() => resolve(false));
    });
  }
}

const CLOSED = "the queue is closed";

function check(isGood, problem) {
  if (!isGood) throw new TypeError(problem);
}

/** Whether the server would take it for a frame of the protocol. */
function isControl(text) {
  try {
    return text.includes('"netra.') && JSON.parse(text).type.startsWith("netra.");
  } catch {
    return false;
  }
}
