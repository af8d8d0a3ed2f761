// The view protocol `console-recording.v1`: what the gateway says of a recording, and its chunks.
import { PageSocket } from "../page_socket.js";
import { Unreadable } from "./records.js";

export const SUBPROTOCOL = "console-recording.v1";
const PROTOCOL_ERROR = 4012;
const OPEN_WITHIN_MS = 15000;
const DELAYS_MS = [0, 1000, 2000, 4000, 8000];

export class ViewOver extends Error {}

/**
 * One view: its WebSocket, and those that follow after a lost network.
 *
 * `tickets` stores the next one-time ticket: load() and save(ticket).
 * `listener` has the methods opened(message), lost() and ended(end).
 */
export class ViewConnection {
  #socket;
  #tickets;
  #listener;
  #reads = [];
  #attempt = 0;
  #isOpen = false;
  #isOver = false;

  constructor({ url, tickets, listener, openSocket, timers }) {
    this.#tickets = tickets;
    this.#listener = listener;
    this.#socket = new PageSocket({
      url,
      protocol: SUBPROTOCOL,
      withinMs: OPEN_WITHIN_MS,
      openSocket,
      timers,
      owner: {
        opened: () => this.#socket.send({ type: "open", ticket: this.#tickets.load() }),
        received: (message) => this.#receive(message),
        receivedBytes: (data) => this.#reads.shift()?.resolve(new Uint8Array(data)),
        broken: () => this.#end({ code: PROTOCOL_ERROR }),
        closed: (code) => this.#closed(code),
      },
    });
  }

  open() {
    this.#socket.open();
  }

  /** Return the bytes of a chunk; it waits for a lost network. */
  read(part, chunk) {
    return this.#request({ type: "read", part, chunk });
  }

  /** Return the records of a chunk of the keys that were pressed in a part. */
  keys(part, chunk) {
    return this.#request({ type: "keys", part, chunk });
  }

  retryNow() {
    if (!this.#isOver) this.#socket.openNow();
  }

  close() {
    this.#finish();
  }

  #request(message) {
    if (this.#isOver) return Promise.reject(new ViewOver());
    return new Promise((resolve, reject) => {
      this.#reads.push({ message, resolve, reject });
      if (this.#isOpen) this.#socket.send(message);
    });
  }

  #receive(message) {
    if (message.type === "opened") {
      this.#socket.accepted();
      this.#attempt = 0;
      this.#tickets.save(message.ticket);
      for (const { message: read } of this.#reads) this.#socket.send(read);
      this.#isOpen = true; // the listener's own reads are sent at once
      this.#listener.opened(message);
    } else if (message.type === "unreadable") {
      this.#reads.shift()?.reject(new Unreadable(message.reason));
    } else if (message.type === "ended") {
      this.#end(message);
    }
  }

  #closed(code) {
    this.#isOpen = false;
    if (code >= 4000) {
      this.#end({ code });
      return;
    }
    this.#listener.lost();
    this.#socket.openAfter(DELAYS_MS[Math.min(this.#attempt, DELAYS_MS.length - 1)]);
    this.#attempt += 1;
  }

  #end(end) {
    if (this.#isOver) return;
    this.#finish();
    this.#listener.ended(end);
  }

  #finish() {
    this.#isOver = true;
    this.#socket.close();
    for (const { reject } of this.#reads.splice(0)) reject(new ViewOver());
  }
}
