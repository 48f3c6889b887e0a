// The protocol with everything around it faked: a clock that stands still, a network that delivers when told, and a
// check of the promises after every step.

import assert from "node:assert/strict";

import { Protocol } from "./client.mjs";
import { makeMessage } from "./server.mjs";

export class Machine {
  constructor(line, { random = () => 0.5 } = {}) {
    this.line = line;
    this.now = 1_000_000;
    this.protocol = new Protocol({ random });
    this.socket = null; // {server, toClient, isDead}
    this.handling = null;
    this.handled = new Map(); // id: how often
    this.given = []; // {socket, seq} in the order of handling
    this.sent = [];
    this.log = [];
    this.isSuspended = this.isEnded = false;
    line.onack = (connection, seq) => this.#checkAck(connection, seq);
  }

  #checkAck(connection, seq) {
    const unhandled = connection.sent.slice(0, seq).filter(({ id }) => !this.handled.has(id));
    assert.deepEqual(unhandled, [], `acked ${seq}, beyond what was handled`);
    assert.equal(connection, this.socket?.server, "an ack on a connection that is not the present one");
  }

  do(name, ...given) {
    const actions = this.protocol[name](...given, this.now);
    for (const action of actions) this.#carryOut(action);
    this.log.push(...actions);
    const { wakeAt, state } = this.protocol;
    if (name === "tick") assert.ok(wakeAt === null || wakeAt > this.now, `awake at ${wakeAt}, it is ${this.now}`);
    assert.equal(state === "closed", this.isEnded, `${name}: ${state}`);
    if (!this.isEnded && !this.isSuspended) assert.ok(Number.isFinite(wakeAt), `${name}: it would sleep for ever`);
    return actions;
  }

  #carryOut({ do: what, ...detail }) {
    switch (what) {
      case "connect":
        assert.equal(this.socket, null, "a second socket");
        this.socket = { server: null, toClient: [], isDead: false };
        return;
      case "disconnect":
        this.socket = null;
        return;
      case "write":
        assert.ok(this.socket?.server, `written without a connection: ${detail.text}`);
        if (detail.frame) this.sent.push(detail.text);
        if (!this.socket.isDead) this.socket.server.receive(detail.text);
        return;
      case "handle":
        assert.equal(this.handling, null, "a second handler");
        this.handling = detail.message;
        this.#checkOrder(detail.message.id);
    }
  }

  #checkOrder(id) {
    const { socket } = this;
    const seq = socket.server.sent.findIndex((message) => message.id === id);
    const former = this.given.findLast((one) => one.socket === socket);
    assert.ok(seq >= 0 && seq > (former?.seq ?? -1), `${id} out of order`);
    this.given.push({ socket, seq });
  }

  // --- what happens ---

  start() {
    this.isEnded = this.isSuspended = false;
    return this.do("connect");
  }

  /** The server accepts the connection that is under way. */
  accept() {
    if (!this.socket || this.socket.server) return;
    const { socket } = this;
    socket.server = { receive() {} }; // its first frames come before there is one
    socket.server = this.line.open((frame) => socket.toClient.push(JSON.stringify(frame)));
  }

  /** The network delivers the next frame, or all. */
  deliver(count = 1) {
    for (; count > 0 && this.socket?.toClient.length && !this.socket.isDead; count -= 1) {
      this.do("received", this.socket.toClient.shift());
    }
  }

  finish() {
    if (!this.handling) return;
    const { id } = this.handling;
    this.handling = null;
    this.handled.set(id, (this.handled.get(id) ?? 0) + 1);
    assert.equal(this.handled.get(id), 1, `${id} was handled twice`);
    this.do("handled");
  }

  fail() {
    if (!this.handling) return;
    this.handling = null;
    this.do("failed", new Error("no"));
  }

  drop(code) {
    if (!this.socket) return;
    this.socket = null;
    this.isEnded = code >= 4400 && code < 4500;
    this.do("disconnected", code, "");
  }

  suspend() {
    this.isSuspended = !this.isEnded;
    this.do("suspend");
  }

  nudge() {
    this.isSuspended = false;
    this.do("nudge");
  }

  close() {
    this.isEnded = true;
    this.isSuspended = false;
    this.do("close");
  }

  push(count = 1) {
    for (; count > 0; count -= 1) this.line.messages.push(makeMessage(null));
    if (this.socket?.server && !this.socket.isDead) this.socket.server.transmit();
  }

  /** Let this much time pass: the timer runs when it is due. */
  pass(ms) {
    const end = this.now + ms;
    for (let runs = 0; this.protocol.wakeAt !== null && this.protocol.wakeAt <= end; runs += 1) {
      assert.ok(runs < 10_000, "a busy loop");
      this.now = Math.max(this.now, this.protocol.wakeAt);
      this.do("tick");
    }
    this.now = end;
  }

  /** Timers stood still: one late tick. */
  sleep(ms) {
    this.now += ms;
    this.do("tick");
  }

  /** Everything works again: until nothing is left to do. */
  settle() {
    if (this.isSuspended) this.nudge();
    for (let rounds = 0; rounds < 2_000; rounds += 1) {
      if (this.socket?.isDead) this.drop(1006);
      this.accept();
      this.deliver(Infinity);
      this.finish();
      if (this.protocol.state === "live" && !this.line.messages.length && !this.handling) return;
      this.pass(1_000);
    }
    throw new Error(`it does not come to rest: ${this.protocol.state}`);
  }

  live() {
    this.start();
    this.settle();
    return this;
  }
}
