// A server's side of netra-queue.v1 for one client's line, as far as a client can tell: only an ack removes anything.

/** A small PRNG (mulberry32): the same seed, the same run. Never exactly 0. */
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 1) / 4294967298;
  };
}

let lastId = 0;

/** A message as a frame has it. */
export const makeMessage = (data, fields = {}) => ({
  id: `m${(lastId += 1)}`,
  priority: "normal",
  sent_at: "2026-01-01T12:00:00.000Z",
  replayed: false,
  data,
  ...fields,
});

/** One accepted connection: `write` gets each frame as an object. Throws when the client breaks the protocol. */
class Connection {
  constructor(line, write) {
    Object.assign(this, { line, write, sent: [], acked: 0, frames: [], own: [], isLive: false });
    const { messages, window, heartbeat, lost } = line;
    write({ type: "netra.hello", queue: "user.1", waiting: messages.length, lost, window, heartbeat });
    this.transmit();
  }

  transmit() {
    const inFlight = new Set(this.sent.slice(this.acked).map(({ id }) => id));
    const next = this.line.messages.filter(({ id }) => !inFlight.has(id)).slice(0, this.line.window - inFlight.size);
    if (next.length) this.write({ type: "netra.messages", seq: this.sent.length + 1, messages: next });
    this.sent.push(...next);
    if (this.isLive || this.line.messages.length > inFlight.size + next.length) return;
    this.isLive = true;
    this.write({ type: "netra.live" });
  }

  receive(text) {
    this.frames.push(text);
    if (!text.startsWith('{"type":"netra.')) return this.own.push(text);
    const frame = JSON.parse(text);
    if (frame.type === "netra.ping") return this.line.answers && this.write({ type: "netra.pong" });
    if (frame.seq > this.sent.length) throw new Error(`ack of ${frame.seq}, but ${this.sent.length} were sent`);
    const gone = new Set(this.sent.slice(0, frame.seq).map(({ id }) => id));
    this.acked = Math.max(this.acked, frame.seq);
    this.line.messages = this.line.messages.filter(({ id }) => !gone.has(id));
    this.line.onack?.(this, frame.seq);
    this.transmit();
  }
}

export class Line {
  constructor({ window = 256, heartbeat = 25, messages = [], lost = { expired: 0, dropped: 0 } } = {}) {
    Object.assign(this, { window, heartbeat, messages, lost, answers: true, connections: [] });
  }

  open(write) {
    const connection = new Connection(this, write);
    this.connections.push(connection);
    return connection;
  }

  get connection() {
    return this.connections.at(-1);
  }
}
