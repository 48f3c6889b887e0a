// Made by `make client` from protocol.js and browser.js. Do not edit.

// The client's side of netra-queue.v1 (docs/protocol.md), the counterpart of core/connection.py. It only thinks: no
// socket, no timer, no clock. Every method takes what happened and the time (milliseconds), and returns what to do.
//
//   connect --> connecting --hello--> replaying --live--> live
//                   ^                     |                 |
//                   |                     +----- broken ----+--- suspend, or a 45xx
//                   +---- time ---- waiting <---------------+
//   close(), or a 44xx, from anywhere --> closed

export const SUBPROTOCOL = "netra-queue.v1";
const ACK_AFTER_MS = 100;
const SAVE_EVERY_MS = 1_000;
const HELLO_MS = 15_000;
const PROBE_MS = 3_000;
const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 30_000;
const LATE_MS = 5_000;
const REMEMBERED_WINDOWS = 2;
const DEFAULT_WINDOW = 256;
const DEFAULT_HEARTBEAT_SECONDS = 25;

/** The ids handled lately, oldest forgotten first. */
export class SeenIds {
  constructor(ids = []) {
    this.ids = new Set(ids);
  }

  has(id) {
    return this.ids.has(id);
  }

  add(id, most) {
    this.ids.add(id);
    for (const oldest of this.ids) {
      if (this.ids.size <= most) break;
      this.ids.delete(oldest);
    }
  }
}

/**
 * What to do, one after the other: {do: "connect"}, {do: "disconnect"} (of this socket nothing is heard any more),
 * {do: "write", text, frame}, {do: "handle", message} (answer with `handled` or `failed`), {do: "save"} (the ids in
 * `seen`), {do: "state", state, detail}, {do: "lost", lost}, {do: "repeat", message}, {do: "error", error}.
 */
export class Protocol {
  constructor({ seen = new SeenIds(), random = Math.random } = {}) {
    this.seen = seen;
    this.random = random;
    this.state = "closed";
    this.outbox = []; // what the application sent while there was no connection: {text, …}
    this.busy = null; // the delivery that the application is handling, perhaps one of a connection that is gone
    this.hasFailed = false; // since then, no message was handled and no ping answered
    this.attempt = 0;
    this.now = 0;
    this.notBefore = 0; // what netra.retry said
    this.savedAt = 0;
    this.#reset();
  }

  /** When `tick` is due, or null. After a tick it is not past. */
  get wakeAt() {
    const times = Object.values(this.due).filter((at) => at !== null);
    return times.length ? Math.min(...times) : null;
  }

  get isConnected() {
    return this.state === "replaying" || this.state === "live";
  }

  // --- the application ---

  /** Be connected from now on. */
  connect(now) {
    this.#clock(now);
    if (this.state !== "closed" && this.state !== "waiting") return [];
    this.#reset();
    this.due.hello = now + HELLO_MS;
    return [...this.#become("connecting"), { do: "connect" }];
  }

  /** `frame`: {text}, for the consumer's receive. Written now, or after the next hello. */
  send(frame, now) {
    this.#clock(now);
    if (this.isConnected) return [write(frame.text, frame)];
    this.outbox.push(frame);
    return [];
  }

  /** The application has handled the message: it is acked soon, and comes no more. */
  handled(now) {
    this.#clock(now);
    const { seq, message, connection } = this.busy;
    this.busy = null;
    this.seen.add(message.id, REMEMBERED_WINDOWS * this.window + this.backlog);
    if (connection !== this.connection) return [{ do: "save" }, ...this.#handleNext()];
    this.#works();
    return [...this.#processed(seq), ...this.#handleNext()];
  }

  /** The application could not handle the message. It is not acked, and comes again with the next connection. */
  failed(error, now) {
    this.#clock(now);
    const { connection } = this.busy;
    this.busy = null;
    const actions = [{ do: "error", error }];
    if (connection !== this.connection) return [...actions, ...this.#handleNext()];
    this.hasFailed = true;
    return [...actions, ...this.#ack(), { do: "disconnect" }, ...this.#wait({ error })];
  }

  /** Never again, unless `connect` is called. */
  close(now) {
    this.#clock(now);
    if (this.state === "closed") return [];
    return [...this.#ack(), { do: "disconnect" }, ...this.#end({})];
  }

  // --- the page ---

  /** The network or the page is back: no waiting, and a connection that died meanwhile is noticed soon. */
  nudge(now) {
    this.#clock(now);
    if (this.state === "waiting") {
      if (now >= this.notBefore) return this.connect(now);
      this.due.back = this.notBefore;
    }
    if (this.state === "connecting") this.due.hello = Math.min(this.due.hello, now + PROBE_MS);
    return this.isConnected ? [this.#ping(PROBE_MS)] : [];
  }

  /** The page is hidden for good, or kept to be shown again: then `nudge` is called. */
  suspend(now) {
    this.#clock(now);
    if (this.state === "closed") return [];
    const actions = [...this.#ack(), { do: "save" }, { do: "disconnect" }];
    this.#reset();
    return [...actions, ...this.#become("waiting")];
  }

  // --- the socket ---

  received(text, now) {
    this.#clock(now);
    if (this.state === "closed" || this.state === "waiting") return [];
    this.due.answer = null;
    this.hasProbed = false;
    try {
      // Timers of hidden pages come late. What is due meanwhile need not wait for them.
      return [...this.#frame(JSON.parse(text)), ...this.tick(now)];
    } catch (error) {
      return this.#broken(`a frame that cannot be read: ${error.message}`);
    }
  }

  /** The socket has ended, or never opened. `code`: of the close frame, 1006 without one. */
  disconnected(code, reason, now) {
    this.#clock(now);
    if (this.state === "closed" || this.state === "waiting") return [];
    if (code >= 4400 && code < 4500) return this.#end({ code, reason });
    return this.#wait({ code, reason });
  }

  tick(now) {
    this.#clock(now);
    const { back, hello, answer, ack, ping } = this.due;
    if (isDue(back, now)) return this.connect(now);
    if (isDue(hello, now)) return this.#broken("no netra.hello came");
    const actions = isDue(ack, now) ? this.#ack() : [];
    // Late: timers stood still, as on a laptop that slept. The connection may be gone; or the answer is there, unread.
    const isLate = now - Math.min(answer ?? now, ping ?? now) > LATE_MS;
    if (isDue(answer, now)) {
      if (!isLate || this.hasProbed) return this.#broken("the server went silent");
      this.hasProbed = true;
      this.due.answer = null;
    }
    if (isDue(answer, now) || isDue(ping, now)) actions.push(this.#ping(isLate ? PROBE_MS : this.heartbeatMs / 2));
    return actions;
  }

  // --- within ---

  #reset() {
    this.connection = {}; // one for each connection, to be compared
    this.inbox = [];
    this.window ??= DEFAULT_WINDOW;
    this.backlog ??= 0;
    this.heartbeatMs = DEFAULT_HEARTBEAT_SECONDS * 1000;
    this.delivered = this.processed = this.acked = 0;
    this.hasProbed = false;
    this.due = { back: null, hello: null, answer: null, ack: null, ping: null };
  }

  /** Clocks are set back. What was due in a minute still is. */
  #clock(now) {
    const back = this.now - now;
    if (back > 0) {
      for (const [name, at] of Object.entries(this.due)) if (at !== null) this.due[name] = at - back;
      this.notBefore -= back;
      this.savedAt -= back;
    }
    this.now = now;
  }

  #become(state, detail = {}) {
    this.state = state;
    return [{ do: "state", state, detail }];
  }

  /** Proof that the connection is good for something: the next time, the pause is short again. */
  #works() {
    this.hasFailed = false;
    if (this.state === "live") this.attempt = 0;
  }

  #frame(frame) {
    if (frame.type === "netra.retry") this.notBefore = this.now + positive(frame.after, 0) * 1000;
    if (frame.type === "netra.hello") return this.#hello(frame);
    if (!this.isConnected) return []; // the hello is the first frame
    switch (frame.type) {
      case "netra.messages":
        return this.#messages(frame);
      case "netra.live":
        if (!this.hasFailed) this.attempt = 0;
        return this.#become("live");
      case "netra.pong":
        this.#works();
        return [];
      case "netra.lost":
        // An ack for nothing new: it shows the server that this was heard. Others may have been under way already.
        return [{ do: "lost", lost: counts(frame) }, write(ackFrame(this.acked))];
    }
    return [];
  }

  #hello({ queue, waiting, lost = {}, window, heartbeat }) {
    this.due.hello = null;
    this.window = positive(window, DEFAULT_WINDOW);
    this.heartbeatMs = positive(heartbeat, DEFAULT_HEARTBEAT_SECONDS) * 1000;
    this.backlog = positive(waiting, 0); // what was handled and not acked may come again after all of this
    this.due.ping = this.now + this.heartbeatMs / 2;
    const actions = this.#become("replaying", { queue, waiting });
    if (Object.values(counts(lost)).some((count) => count > 0)) {
      actions.push({ do: "lost", lost });
      this.#ackSoon(); // of 0, if nothing comes
    }
    return [...actions, ...this.outbox.splice(0).map((kept) => write(kept.text, kept))];
  }

  #messages({ seq, messages }) {
    if (seq !== this.delivered + 1) return this.#broken(`delivery ${seq} came after ${this.delivered}`);
    this.inbox.push(...messages.map((message, index) => ({ seq: seq + index, message: forApplication(message) })));
    this.delivered += messages.length;
    return this.#handleNext();
  }

  #handleNext() {
    const actions = [];
    while (this.busy === null && this.inbox.length) {
      const { seq, message } = this.inbox.shift();
      if (this.seen.has(message.id)) {
        actions.push({ do: "repeat", message }, ...this.#processed(seq));
      } else {
        this.busy = { seq, message, connection: this.connection };
        actions.push({ do: "handle", message });
      }
    }
    return actions;
  }

  #processed(seq) {
    this.processed = seq;
    this.#ackSoon();
    return this.processed - this.acked >= this.window / 2 ? this.#ack() : [];
  }

  #ackSoon() {
    this.due.ack ??= this.now + ACK_AFTER_MS;
  }

  #ack() {
    if (this.due.ack === null) return [];
    this.due.ack = null;
    this.acked = this.processed;
    const ack = write(ackFrame(this.acked));
    // For a page that is killed; any other end saves too. Not with each ack: a large window has many ids.
    if (this.now - this.savedAt < SAVE_EVERY_MS) return [ack];
    this.savedAt = this.now;
    return [{ do: "save" }, ack];
  }

  #ping(answerMs) {
    const answer = this.now + answerMs;
    this.due.answer = Math.min(answer, this.due.answer ?? answer);
    this.due.ping = this.now + this.heartbeatMs / 2; // whatever else is written: only a pong shows that it arrives
    return write('{"type":"netra.ping"}');
  }

  #broken(reason) {
    this.hasFailed = true;
    return [{ do: "disconnect" }, ...this.#wait({ code: 1006, reason })];
  }

  /** Full jitter, so that the clients of a server that restarted do not come all at once. */
  #wait(detail) {
    const ceiling = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.attempt);
    const back = Math.max(this.now, this.notBefore) + this.random() * ceiling;
    this.attempt += 1;
    this.#reset();
    this.due.back = back;
    return [{ do: "save" }, ...this.#become("waiting", { ...detail, until: back })];
  }

  #end(detail) {
    this.#reset();
    this.attempt = 0;
    return [{ do: "save" }, ...this.#become("closed", detail)];
  }
}

const isDue = (at, now) => at !== null && now >= at;

const positive = (number, otherwise) => (number > 0 ? number : otherwise);

const write = (text, frame = null) => ({ do: "write", text, frame });

const ackFrame = (seq) => JSON.stringify({ type: "netra.ack", seq });

function counts(lost) {
  const { type, since, by_priority, ...rest } = lost;
  return rest;
}

/** {id, priority, sentAt, replayed, data}: the data is JSON's, a string, or a Uint8Array. */
function forApplication({ id, priority, sent_at, replayed, ...payload }) {
  const { data = payload.text, data_base64 } = payload;
  const bytes = data_base64 === undefined ? data : Uint8Array.from(atob(data_base64), (char) => char.charCodeAt(0));
  return { id, priority, sentAt: new Date(sent_at), replayed, data: bytes };
}

// What surrounds the protocol in a browser: the socket, the timer, the page's coming and going, what outlives a reload.


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
