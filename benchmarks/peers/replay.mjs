// How long Socket.IO's connection state recovery takes for many messages: `node replay.mjs server|client PORT COUNT BYTES`.
// The server keeps them in memory. The client says when it had everything, in seconds from its reconnect.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { io } from "socket.io-client";

const [role, port, count, bytes] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const AWAY_MS = 2500;

function serve() {
  const http = createServer();
  const server = new Server(http, { connectionStateRecovery: { maxDisconnectionDuration: 120_000 } });
  const filling = "x".repeat(bytes);
  server.on("connection", (socket) => {
    socket.join("room");
    socket.emit("hello", 1);
    socket.on("disconnect", () => {
      for (let number = 0; number < count; number++) server.to("room").emit("message", { number, filling });
    });
  });
  http.listen(port, "127.0.0.1", () => console.log("ready"));
}

function replay() {
  const socket = io(`http://127.0.0.1:${port}`, { transports: ["websocket"], reconnection: false });
  let received = 0;
  let started = 0;
  socket.on("message", () => {
    if (++received === count) {
      console.log(JSON.stringify({ seconds: (performance.now() - started) / 1000, recovered: socket.recovered }));
      process.exit(0);
    }
  });
  socket.once("hello", () => {
    socket.io.engine.close();
    setTimeout(() => {
      started = performance.now();
      socket.connect();
    }, AWAY_MS);
  });
}

if (role === "server") serve();
else replay();
