// A small client of netra-queue.v1 (docs/protocol.md): acks after handling, drops repeats, comes back by itself.

const ACK_AFTER_MS = 100;
const REMEMBERED_IDS = 2000;
const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 30_000;

/** The ids seen lately, oldest forgotten first; kept in `storage` so that a reload does not forget them. */
class SeenIds {
  constructor(storage, key) {
    this.storage = storage;
    this.key = key;
    this.ids = new Set(JSON.parse(storage.getItem(key) ?? "[]"));
  }

  has(id) { return this.ids.has(id); }

  add(id) {
    this.ids.add(id);
    if (this.ids.size > REMEMBERED_IDS) this.ids.delete(this.ids.values().next().value);
  }

  save() { this.storage.setItem(this.key, JSON.stringify([...this.ids])); }
}

/**
 * `url`: ws: or wss:. `onMessage(data, message)` may return a promise; the message is acked when it is done.
 * `onState(state, detail)`: connecting, replaying, live, closed, refused. `onLost({expired, dropped})`.
 * `storage`: a Storage that outlives a reload of this tab, and only this tab's.
 */
export class QueueClient {
  constructor(url, { onMessage, onState = () => {}, onLost = () => {}, onRepeat = () => {}, storage = sessionStorage }) {
    const clientId = storage.getItem("netra.client") ?? `tab-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    storage.setItem("netra.client", clientId);
    this.clientId = clientId; // this tab's line in the user's queue: it has its own replay and acks
    this.url = `${url}?client=${clientId}`;
    Object.assign(this, { onMessage, onState, onLost, onRepeat });
    this.seen = new SeenIds(storage, "netra.seen");
    this.attempt = 0;
    this.retryAfterMs = 0;
    addEventListener("pagehide", () => this.seen.save());
  }

  /** Connect, and stay connected. */
  connect() {
    clearTimeout(this.reconnectTimer);
    if (this.socket) return;
    this.onState("connecting");
    this.socket = new WebSocket(this.url, ["netra-queue.v1"]);
    this.processed = this.acked = 0;
    this.work = Promise.resolve();
    this.socket.onmessage = (event) => this.#frame(JSON.parse(event.data));
    this.socket.onclose = (event) => this.#closed(event.code, event.reason);
  }

  /** Let the socket go at once, as a lost network would: what is under way is neither handled nor acked. */
  cut() {
    this.#letGo();
    this.onState("closed");
  }

  #letGo() {
    clearInterval(this.pingTimer);
    clearTimeout(this.ackTimer);
    clearTimeout(this.reconnectTimer);
    this.ackTimer = null;
    if (!this.socket) return;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.socket = null;
  }

  #frame(frame) {
    this.heardAt = Date.now();
    switch (frame.type) {
      case "netra.hello":
        this.#hello(frame);
        break;
      case "netra.messages": {
        const socket = this.socket;
        this.work = this.work.then(() => this.#handle(frame, socket));
        break;
      }
      case "netra.live":
        this.attempt = 0;
        this.onState("live");
        break;
      case "netra.lost":
        this.onLost(frame);
        break;
      case "netra.retry":
        this.retryAfterMs = frame.after * 1000;
        break;
    }
  }

  #hello(frame) {
    this.onState("replaying", frame);
    if (frame.lost.expired || frame.lost.dropped) this.onLost(frame.lost);
    this.#ackSoon(); // an ack of 0 too: it says that the losses were told
    const heartbeatMs = frame.heartbeat * 1000;
    this.pingTimer = setInterval(() => this.#ping(heartbeatMs), heartbeatMs / 2);
  }

  #ping(heartbeatMs) {
    if (Date.now() - this.heardAt > 2 * heartbeatMs) this.#closed(1006, "the server went silent");
    else this.socket.send('{"type":"netra.ping"}');
  }

  async #handle(frame, socket) {
    for (const [index, message] of frame.messages.entries()) {
      if (socket !== this.socket) return;
      if (this.seen.has(message.id)) {
        this.onRepeat(message);
      } else {
        try {
          await this.onMessage("data" in message ? message.data : message.text ?? message.data_base64, message);
        } catch (error) {
          console.error("a message could not be handled", error); // acked all the same: a repeat would fail again
        }
        this.seen.add(message.id);
      }
      if (socket !== this.socket) return;
      this.processed = frame.seq + index;
      this.#ackSoon();
    }
  }

  #ackSoon() {
    this.ackTimer ??= setTimeout(() => {
      this.ackTimer = null;
      this.seen.save();
      if (this.socket?.readyState !== WebSocket.OPEN) return;
      this.socket.send(JSON.stringify({ type: "netra.ack", seq: this.processed }));
    }, ACK_AFTER_MS);
  }

  #closed(code, reason) {
    this.#letGo();
    if (code >= 4400 && code < 4500) {
      this.onState("refused", { code, reason });
      return;
    }
    this.onState("closed", { code, reason });
    const ceiling = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.attempt++);
    this.reconnectTimer = setTimeout(() => this.connect(), this.retryAfterMs + Math.random() * ceiling);
    this.retryAfterMs = 0;
  }
}
