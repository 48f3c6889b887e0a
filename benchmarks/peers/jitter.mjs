// Sockets that are cut again and again under a steady stream, with Socket.IO's connection state recovery:
// `node jitter.mjs server|clients PORT CLIENTS SECONDS KILL_SECONDS AWAY_SECONDS`. The server sends each client two
// messages a second; the clients say what share of them came, and the 99th percentile from sending to receiving, the time
// away subtracted.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { io } from "socket.io-client";

const [role, port, clients, seconds, kill, away] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const FILLING = "x".repeat(200);
const SETTLE_MS = 10_000;

function serve() {
  const http = createServer();
  const server = new Server(http, { connectionStateRecovery: { maxDisconnectionDuration: 120_000 } });
  server.on("connection", (socket) => {
    if (!socket.recovered) socket.join(socket.handshake.query.room);
    socket.emit("ready"); // a first event: recovery needs an offset to go on from
    socket.on("begin", send);
  });
  let has_begun = false;
  function send() {
    if (has_begun) return;
    has_begun = true;
    const total = 2 * clients * seconds;
    const began = performance.now();
    let number = 0;
    const timer = setInterval(() => {
      const due = Math.min(total, Math.floor(((performance.now() - began) / 1000) * 2 * clients));
      for (; number < due; number++) {
        server.to(`bench.${number % clients}`).emit("message", { number, at: Date.now(), filling: FILLING });
      }
      if (number >= total) clearInterval(timer);
    }, 3);
  }
  http.listen(port, "127.0.0.1", () => console.log("ready"));
}

class Wanderer {
  constructor(number) {
    this.away = [];
    this.delays = [];
    this.numbers = new Set();
    this.repeats = 0;
    const query = { room: `bench.${number}` };
    this.socket = io(`http://127.0.0.1:${port}`, { transports: ["websocket"], reconnection: false, forceNew: true, query });
    this.socket.on("message", (message) => this.took(message));
    this.ready = new Promise((resolve) => this.socket.once("ready", resolve));
  }

  took({ number, at }) {
    if (this.numbers.has(number)) this.repeats++;
    else this.delays.push([at, Date.now()]);
    this.numbers.add(number);
  }

  async wander(until) {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 2 * kill * 1000));
      if (Date.now() > until) return;
      const since = Date.now();
      this.socket.io.engine.transport.ws._socket?.destroy(); // as a lost network does
      await new Promise((resolve) => setTimeout(resolve, away * 1000));
      const back = new Promise((resolve) => this.socket.once("connect", resolve));
      this.socket.connect();
      await back;
      this.away.push([since, Date.now()]);
    }
  }

  waits() {
    return this.delays.map(([at, came]) => {
      const [since, end] = this.away.find(([, end]) => end >= at) ?? [came, came];
      return came - at - Math.max(0, Math.min(end, came) - Math.max(since, at));
    });
  }
}

async function roam() {
  const all = Array.from({ length: clients }, (_, number) => new Wanderer(number));
  await Promise.all(all.map((one) => one.ready));
  all[0].socket.emit("begin");
  const until = Date.now() + seconds * 1000;
  await Promise.all(all.map((one) => one.wander(until)));
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const waits = all.flatMap((one) => one.waits()).sort((a, b) => a - b);
  const p99 = waits[Math.floor(waits.length * 0.99)];
  const repeats = all.reduce((sum, one) => sum + one.repeats, 0);
  console.log(JSON.stringify({ delivered: (waits.length / (2 * clients * seconds)) * 100, p99, repeats }));
  process.exit(0);
}

if (role === "server") serve();
else roam();
