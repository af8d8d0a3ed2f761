// One WebSocket of a page at a time, opened by a deadline and again after a delay. Text is JSON.

const LOST = 1006;

export class PageSocket {
  #url;
  #protocol;
  #withinMs;
  #openSocket;
  #timers;
  #owner;
  #socket = null;
  #timer = null;

  /**
   * `owner` has the methods opened(), received(message), receivedBytes(data), broken() for text
   * that is not JSON, and closed(code). `withinMs`: from the attempt until `accepted`.
   */
  constructor({ url, protocol, withinMs, openSocket, timers, owner }) {
    this.#url = url;
    this.#protocol = protocol;
    this.#withinMs = withinMs;
    this.#openSocket = openSocket;
    this.#timers = timers;
    this.#owner = owner;
  }

  open() {
    const socket = this.#openSocket(this.#url, this.#protocol);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#setTimer(() => this.#closed(socket, LOST), this.#withinMs);
    socket.onopen = () => {
      if (socket === this.#socket) this.#owner.opened();
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      if (typeof data === "string") this.#receive(data);
      else this.#owner.receivedBytes(data);
    };
    socket.onclose = ({ code }) => this.#closed(socket, code);
  }

  /** The gateway has accepted the page: the deadline is over. */
  accepted() {
    this.#clearTimer();
  }

  openAfter(delayMs) {
    this.#setTimer(() => this.open(), delayMs);
  }

  /** Open at once, if the next attempt waits. */
  openNow() {
    if (this.#socket === null) this.open();
  }

  send(message) {
    this.sendBytes(JSON.stringify(message));
  }

  sendBytes(data) {
    if (this.#socket?.readyState === 1) this.#socket.send(data);
  }

  /** Close without a call of `closed`, and open no more. */
  close() {
    this.#clearTimer();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #receive(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      this.#owner.broken();
      return;
    }
    this.#owner.received(message);
  }

  #closed(socket, code) {
    if (socket !== this.#socket) return;
    this.close();
    this.#owner.closed(code);
  }

  #setTimer(action, delayMs) {
    this.#clearTimer();
    this.#timer = this.#timers.set(action, delayMs);
  }

  #clearTimer() {
    this.#timers.clear(this.#timer);
    this.#timer = null;
  }
}
