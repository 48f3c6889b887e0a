// A network that breaks on request, for this tab alone. Import it before the first WebSocket is made.

const Whole = globalThis.WebSocket;
let isCut = false;
let latest = null;

class Breakable extends Whole {
  isDeaf = false;

  constructor(...address) {
    super(...address);
    latest = this;
    if (isCut) this.close();
  }

  send(data) {
    if (!this.isDeaf) super.send(data);
  }
}
globalThis.WebSocket = Breakable;

/** No WebSocket lasts until `mend`. */
export function cut() {
  isCut = true;
  latest?.close();
}

/** As when a network comes back: browsers say so. */
export function mend() {
  isCut = false;
  dispatchEvent(new Event("online"));
}

/** Nothing that is sent on the present WebSocket arrives any more, and nobody is told. */
export function halfOpen() {
  if (latest) latest.isDeaf = true;
}
