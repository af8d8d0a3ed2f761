// The page protocol `console-gateway.v1`: text frames are JSON objects, binary frames are RFB.
import { BinaryChannel } from "./channel.js";
import { PageSocket } from "./page_socket.js";

export const SUBPROTOCOL = "console-gateway.v1";
const MOVE = 4007;
const PROTOCOL_ERROR = 4012;
const OPEN_WITHIN_MS = 10000;

/**
 * One session: its WebSocket, and those that follow after a lost network.
 *
 * `listener` has the methods attached(info), waiting(message), connecting(), live(channel),
 * expectedEnd(message), warning(message), warningOver(reason), mode(mode), powerEnded(), powerRejected(message),
 * recording(isRecorded), watchers(list), lost(delayMs), ended(end).
 * `keys` stores the newest resume key: load() and save(key).
 */
export class Connection {
  #socket;
  #keys;
  #policy;
  #listener;
  #timers;
  #channel = null;
  #isOver = false;

  constructor({ url, keys, policy, listener, openSocket, timers }) {
    this.#keys = keys;
    this.#policy = policy;
    this.#listener = listener;
    this.#timers = timers;
    this.#socket = new PageSocket({
      url,
      protocol: SUBPROTOCOL,
      withinMs: OPEN_WITHIN_MS,
      openSocket,
      timers,
      owner: {
        opened: () => this.#socket.send({ type: "attach", resume_key: this.#keys.load() }),
        received: (message) => this.#receive(message),
        receivedBytes: (data) => this.#channel?.deliver(data),
        broken: () => this.fail(null),
        closed: (code) => this.#closed(code),
      },
    });
  }

  open() {
    this.#socket.open();
  }

  /** End the session: the person's own choice. */
  end() {
    this.#socket.send({ type: "end" });
    this.#finish({ code: 4000 });
  }

  /** Renew the session with a newer token of the same person. */
  sendToken(token) {
    this.#socket.send({ type: "token", token });
  }

  /** Try again now, if the next attempt waits: the network is back. */
  retryNow() {
    if (!this.#isOver) this.#socket.openNow();
  }

  /** End the session because the page cannot continue. */
  fail(detail) {
    if (this.#isOver) return;
    this.#socket.send({ type: "end" });
    this.#finish({ code: PROTOCOL_ERROR, detail });
  }

  #receive(message) {
    const listener = this.#listener;
    switch (message.type) {
      case "attached":
        this.#socket.accepted();
        this.#keys.save(message.resume_key);
        this.#socket.send({ type: "key_received" }); // the key before is good until then
        this.#policy.attached();
        listener.attached(message);
        break;
      case "state":
        this.#enter(message);
        break;
      case "expected_end":
        listener.expectedEnd(message);
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
      this.#channel = new BinaryChannel(
        (data) => this.#socket.sendBytes(data),
        (error) => this.fail(error),
      );
      this.#policy.live(this.#timers.now());
      this.#listener.live(this.#channel);
    }
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
    this.#socket.openAfter(delay);
  }

  #finish(end) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#release();
    this.#listener.ended(end);
  }

  #release() {
    this.#channel?.detach();
    this.#channel = null;
    this.#socket.close();
  }
}
