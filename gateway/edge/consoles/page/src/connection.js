// The page protocol `console-gateway.v1`: text frames are JSON objects, binary frames are RFB.
import { BinaryChannel } from "./channel.js";

export const SUBPROTOCOL = "console-gateway.v1";
const MOVE = 4007;
const PROTOCOL_ERROR = 4012;
const OPEN_WITHIN_MS = 10000;

/**
 * One session: its WebSocket, and those that follow after a lost network.
 *
 * `listener` has the methods attached(info), waiting(message), connecting(), live(channel),
 * warning(message), warningOver(reason), mode(mode), powerEnded(), powerRejected(message),
 * recording(isRecorded), watchers(list), lost(delayMs), ended(end).
 * `keys` stores the newest resume key: load() and save(key).
 */
export class Connection {
  #url;
  #keys;
  #policy;
  #listener;
  #openSocket;
  #timers;
  #socket = null;
  #channel = null;
  #timer = null;
  #isOver = false;

  constructor({ url, keys, policy, listener, openSocket, timers }) {
    this.#url = url;
    this.#keys = keys;
    this.#policy = policy;
    this.#listener = listener;
    this.#openSocket = openSocket;
    this.#timers = timers;
  }

  open() {
    const socket = this.#openSocket(this.#url, SUBPROTOCOL);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#setTimer(() => this.#abandon(socket), OPEN_WITHIN_MS);
    socket.onopen = () => {
      this.#send({ type: "attach", resume_key: this.#keys.load() });
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      if (typeof data === "string") this.#receive(data);
      else this.#channel?.deliver(data);
    };
    socket.onclose = ({ code }) => {
      if (socket === this.#socket) this.#closed(code);
    };
  }

  /** End the session: the person's own choice. */
  end() {
    this.#send({ type: "end" });
    this.#finish({ code: 4000 });
  }

  /** Renew the session with a newer token of the same person. */
  sendToken(token) {
    this.#send({ type: "token", token });
  }

  /** Try again now, if the next attempt waits: the network is back. */
  retryNow() {
    if (this.#socket !== null || this.#isOver) return;
    this.#clearTimer();
    this.open();
  }

  /** End the session because the page cannot continue. */
  fail(detail) {
    if (this.#isOver) return;
    this.#send({ type: "end" });
    this.#finish({ code: PROTOCOL_ERROR, detail });
  }

  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #receive(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      this.fail(null);
      return;
    }
    const listener = this.#listener;
    switch (message.type) {
      case "attached":
        this.#clearTimer();
        this.#keys.save(message.resume_key);
        this.#send({ type: "key_received" }); // the key before is good until then
        this.#policy.attached();
        listener.attached(message);
        break;
      case "state":
        this.#enter(message);
        break;
      case "warning":
        listener.warning(message);
        break;
      case "warning_over":
        listener.warningOver(message.reason);
        break;
      case "mode":
        listener.mode(message.mode);
        break;
      case "power_ended":
        listener.powerEnded();
        break;
      case "power_rejected":
        listener.powerRejected(message);
        break;
      case "recording":
        listener.recording(message.recorded === true);
        break;
      case "watchers":
        listener.watchers(message.watchers);
        break;
      case "ended":
        if (message.code === MOVE) this.#closed(MOVE);
        else this.#finish(message);
        break;
      default: // a newer gateway may send what this page does not know
    }
  }

  #enter(message) {
    if (message.state === "waiting") this.#listener.waiting(message);
    else if (message.state === "connecting") this.#listener.connecting();
    else if (message.state === "live") {
      const socket = this.#socket;
      this.#channel = new BinaryChannel(
        (data) => socket.readyState === 1 && socket.send(data),
        (error) => this.fail(error),
      );
      this.#policy.live(this.#timers.now());
      this.#listener.live(this.#channel);
    }
  }

  /** A connection attempt takes too long: leave it. */
  #abandon(socket) {
    if (socket !== this.#socket) return;
    this.#closed(1006);
  }

  #closed(code) {
    if (this.#isOver) return;
    if (code >= 4000 && code !== MOVE) {
      this.#finish({ code });
      return;
    }
    this.#release();
    const delay = this.#policy.lost(this.#timers.now());
    if (delay === null) {
      this.#finish({ code: null, reason: "abandoned" });
      return;
    }
    this.#listener.lost(delay, this.#policy.deadline);
    this.#setTimer(() => this.open(), delay);
  }

  #finish(end) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#release();
    this.#clearTimer();
    this.#listener.ended(end);
  }

  #release() {
    this.#channel?.detach();
    this.#channel = null;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #setTimer(action, delay) {
    this.#clearTimer();
    this.#timer = this.#timers.set(action, delay);
  }

  #clearTimer() {
    this.#timers.clear(this.#timer);
    this.#timer = null;
  }
}
