// The view protocol `console-recording.v1`: what the gateway says of a recording, and its chunks.
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
  #url;
  #tickets;
  #listener;
  #openSocket;
  #timers;
  #socket = null;
  #reads = [];
  #attempt = 0;
  #timer = null;
  #isOpen = false;
  #isOver = false;

  constructor({ url, tickets, listener, openSocket, timers }) {
    this.#url = url;
    this.#tickets = tickets;
    this.#listener = listener;
    this.#openSocket = openSocket;
    this.#timers = timers;
  }

  open() {
    this.#clearTimer();
    const socket = this.#openSocket(this.#url, SUBPROTOCOL);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#timer = this.#timers.set(() => this.#closed(socket, 1006), OPEN_WITHIN_MS);
    socket.onopen = () => this.#send({ type: "open", ticket: this.#tickets.load() });
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      if (typeof data === "string") this.#receive(data);
      else this.#reads.shift()?.resolve(new Uint8Array(data));
    };
    socket.onclose = ({ code }) => this.#closed(socket, code);
  }

  /** Return the bytes of a chunk; it waits for a lost network. */
  read(part, chunk) {
    return this.#request({ type: "read", part, chunk });
  }

  /** Return the records of the keys that were pressed in a part. */
  keys(part) {
    return this.#request({ type: "keys", part });
  }

  retryNow() {
    if (this.#socket === null && !this.#isOver) this.open();
  }

  close() {
    this.#finish();
  }

  #request(message) {
    if (this.#isOver) return Promise.reject(new ViewOver());
    return new Promise((resolve, reject) => {
      this.#reads.push({ message, resolve, reject });
      if (this.#isOpen) this.#send(message);
    });
  }

  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #receive(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      this.#end({ code: PROTOCOL_ERROR });
      return;
    }
    if (message.type === "opened") {
      this.#clearTimer();
      this.#attempt = 0;
      this.#tickets.save(message.ticket);
      for (const { message: read } of this.#reads) this.#send(read);
      this.#isOpen = true; // the listener's own reads are sent at once
      this.#listener.opened(message);
    } else if (message.type === "unreadable") {
      this.#reads.shift()?.reject(new Unreadable(message.reason));
    } else if (message.type === "ended") {
      this.#end(message);
    }
  }

  #closed(socket, code) {
    if (socket !== this.#socket) return;
    this.#isOpen = false;
    this.#socket = null;
    socket.close();
    if (code >= 4000) {
      this.#end({ code });
      return;
    }
    this.#listener.lost();
    const delay = DELAYS_MS[Math.min(this.#attempt, DELAYS_MS.length - 1)];
    this.#attempt += 1;
    this.#clearTimer();
    this.#timer = this.#timers.set(() => this.open(), delay);
  }

  #end(end) {
    if (this.#isOver) return;
    this.#finish();
    this.#listener.ended(end);
  }

  #finish() {
    this.#isOver = true;
    this.#clearTimer();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    for (const { reject } of this.#reads.splice(0)) reject(new ViewOver());
  }

  #clearTimer() {
    this.#timers.clear(this.#timer);
    this.#timer = null;
  }
}
