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
