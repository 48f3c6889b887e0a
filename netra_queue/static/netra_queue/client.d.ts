// The browser client of netra_queue: docs/client.md.

export type State = "connecting" | "replaying" | "live" | "waiting" | "closed";
export type Priority = "critical" | "high" | "normal" | "low";

/** How many messages were lost, by reason. After a reconnect, with the time since when, and by priority. */
export interface Losses {
  /** Their time to live was over. */
  expired: number;
  /** The queue was full, or somebody emptied it. */
  dropped: number;
  /** Transmitted too often without an acknowledgement. */
  dead?: number;
  /** This client may not see them. */
  withheld?: number;
  /** The policy's replay leaves them out. */
  left_out?: number;
  /** Sent while the store was away, to whoever was connected, and kept by nobody. */
  unprotected?: number;
  since?: string;
  by_priority?: Record<string, Partial<Record<Priority, number>>>;
}

export interface StateDetail {
  state: State;
  /** Of "replaying": the queue's name, and how many messages wait. */
  queue?: string;
  waiting?: number;
  /** Of "waiting" and "closed": the close code and its reason (1006: there was none, or the client gave it up). */
  code?: number;
  reason?: string;
  /** Of "waiting", after a handler has thrown. */
  error?: unknown;
  /** Of "waiting": when it will try again, in milliseconds since 1970. */
  until?: number;
}

export interface ReceivedMessage<Data = unknown> {
  /** What was sent: JSON's value, a string, or the bytes. */
  readonly data: Data;
  /** The same whenever the message comes again. */
  readonly id: string;
  readonly priority: Priority;
  readonly sentAt: Date;
  /** It was sent before this connection. */
  readonly replayed: boolean;
}

export declare class QueueMessage<Data = unknown> extends Event implements ReceivedMessage<Data> {
  constructor(message: ReceivedMessage<Data>);
  readonly type: "message";
  readonly data: Data;
  readonly id: string;
  readonly priority: Priority;
  readonly sentAt: Date;
  readonly replayed: boolean;
}

export interface Options {
  /** This client's id, 1 to 64 of A-Z a-z 0-9 _ -; "auto" (the default): one of this tab's own; "": none. */
  client?: string;
  /** What is sent while offline is kept in "memory" (the default), or over a "reload" of the page as well. */
  outbox?: "memory" | "reload";
}

/** May return a promise: the message is acknowledged, and the next one given, when it is fulfilled. */
export type MessageListener<Data = unknown> = (message: QueueMessage<Data>) => unknown;

export interface QueueEvents {
  state: CustomEvent<StateDetail>;
  lost: CustomEvent<Losses>;
  /** A message that was handled before, and is not handled again. */
  repeat: CustomEvent<ReceivedMessage>;
  /** A handler has thrown. It is logged too, unless its default is prevented. */
  error: CustomEvent<{ error: unknown }>;
}

/**
 * A connection to one queue that lasts. It begins by itself, and goes on until `close()` or a close code 44xx.
 *
 * Messages go to `onmessage` and to the listeners of "message", one after the other. A message is acknowledged when all
 * are done with it. When one of them throws, there is an "error" event, and the message comes again after a reconnect.
 * While nobody listens, it waits.
 */
export declare class NetraQueue<Data = any> extends EventTarget {
  /** `url`: absolute, or relative to this page. One NetraQueue for each URL and page. Throws TypeError. */
  constructor(url: string | URL, options?: Options);

  readonly state: State;
  onmessage: MessageListener<Data> | null;

  /** Only needed after `close()` or the state "closed": connect again. Does nothing otherwise. */
  connect(): void;

  /**
   * Send to the consumer's receive: a string as it is, anything else as JSON. Fulfilled when it has been written to a
   * connection (or left to the next page of this tab, with `outbox: "reload"`); nothing says that the consumer has
   * handled it. Kept while there is no connection. Rejected when it cannot be kept or said, or the queue is closed.
   */
  send(data: unknown): Promise<void>;

  /** End it, whatever is under way. What was not written yet is rejected. */
  close(): void;

  addEventListener(
    type: "message",
    listener: MessageListener<Data> | { handleEvent: MessageListener<Data> } | null,
    options?: { once?: boolean; signal?: AbortSignal },
  ): void;
  addEventListener<Type extends keyof QueueEvents>(
    type: Type,
    listener: ((event: QueueEvents[Type]) => void) | { handleEvent(event: QueueEvents[Type]): void } | null,
    options?: boolean | AddEventListenerOptions,
  ): void;

  removeEventListener(
    type: "message",
    listener: MessageListener<Data> | { handleEvent: MessageListener<Data> } | null,
  ): void;
  removeEventListener<Type extends keyof QueueEvents>(
    type: Type,
    listener: ((event: QueueEvents[Type]) => void) | { handleEvent(event: QueueEvents[Type]): void } | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
