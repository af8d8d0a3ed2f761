// The channel that noVNC reads and writes: only binary frames of the page's WebSocket.

export class BinaryChannel {
  // noVNC requires these members of a channel (core/websock.js).
  binaryType = "arraybuffer";
  protocol = "";
  readyState = "open";
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  #send;
  #onFailure;

  /** `onFailure` is called when noVNC closes the channel, or fails on a frame. */
  constructor(send, onFailure) {
    this.#send = send;
    this.#onFailure = onFailure;
  }

  send(data) {
    if (this.readyState === "open") this.#send(data);
  }

  close() {
    if (this.readyState !== "open") return;
    this.readyState = "closed";
    // noVNC closes the channel in the middle of its own clean-up.
    queueMicrotask(() => this.#onFailure(null));
  }

  /** Pass one binary frame to noVNC. */
  deliver(data) {
    if (this.readyState !== "open") return;
    try {
      this.onmessage?.({ data });
    } catch (error) {
      this.readyState = "closed";
      this.#onFailure(error);
    }
  }

  /** The WebSocket is closed: noVNC must not send or report any more. */
  detach() {
    this.readyState = "closed";
  }
}
