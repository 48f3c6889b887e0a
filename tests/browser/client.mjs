// client.js as a page gets it: one file, in a realm of its own (or in this one), whatever node thinks of ".js".

import { readFileSync } from "node:fs";
import vm from "node:vm";

const FILE = new URL("../../netra_queue/static/netra_queue/client.js", import.meta.url);
const NAMES = ["NetraQueue", "QueueMessage", "Protocol", "SeenIds", "SUBPROTOCOL"];
const SCRIPT = new vm.Script(`${readFileSync(FILE, "utf8").replace(/^export /gm, "")}\n({ ${NAMES} });`, {
  filename: FILE.pathname,
});

/** What client.js exports, for a page with these globals. */
export const loadInto = (globals) => SCRIPT.runInContext(vm.createContext(globals));

/** The same without a page: the protocol needs none. */
export const { Protocol, SeenIds } = SCRIPT.runInThisContext();

/** A golden frame's file: {name, direction, input, frame, …}. */
export const golden = (name) => JSON.parse(readFileSync(new URL(`../golden/${name}.json`, import.meta.url), "utf8"));
