// The picture of one part of a recording: noVNC itself, on a channel that replays what was sent.
import { BinaryChannel } from "../channel.js";
import { BoundedRFB } from "../screen.js";
import { Framebuffer } from "./framebuffer.js";

class ReplayRFB extends BoundedRFB {
  constructor(target, channel, onFailure) {
    // The result of a password is in the recording; the password is not.
    super(target, channel, { shared: true, credentials: { password: "" } });
    this.viewOnly = true;
    this.focusOnClick = false;
    this.background = "transparent";
    this._display = new Framebuffer(this._canvas, onFailure);
  }

  // The person's pointer was not recorded: its shape would follow the viewer's.
  _updateCursor() {}

  // The page's style sheet scales the canvas.
  _updateScale() {}

  _updateClip() {}

  get isConnecting() {
    return this._rfbConnectionState === "connecting";
  }

  get waiting() {
    return this._sock.rQlen();
  }

  get display() {
    return this._display;
  }

  resume() {
    this._handleMessage();
  }
}

export class ReplayScreen {
  #rfb;
  #channel;
  #fail;
  #isClosed = false;

  /** `onFailure` is called once if noVNC cannot show what was recorded. */
  constructor(target, { label, onFailure }) {
    this.#fail = (error) => {
      if (this.#isClosed) return;
      this.#isClosed = true;
      onFailure(error);
    };
    this.#channel = new BinaryChannel(() => {}, this.#fail);
    this.#rfb = new ReplayRFB(target, this.#channel, this.#fail);
    this.#rfb.addEventListener("disconnect", () => this.#fail(null));
    const canvas = target.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }

  /** Draw in memory only while true; then show the last picture. */
  set isHidden(value) {
    this.#rfb.display.isShown = !value;
    if (!value) this.#rfb.display.show();
  }

  feed(data) {
    if (this.#isClosed) return;
    const isHandshake = this.#rfb.isConnecting;
    this.#channel.deliver(data);
    if (isHandshake) this.#finishHandshake();
  }

  /** Handle all that waits: noVNC handles one step of the handshake for each message. */
  #finishHandshake() {
    let before = Infinity;
    while (!this.#isClosed && this.#rfb.waiting > 0 && this.#rfb.waiting < before) {
      before = this.#rfb.waiting;
      try {
        this.#rfb.resume();
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  /** Whether pictures are still being decoded. */
  get isBusy() {
    return !this.#isClosed && this.#rfb.display.pending();
  }

  /** Wait until all that was fed is drawn. */
  async settle() {
    while (this.isBusy) {
      await this.#rfb.display.flush();
      await null; // noVNC then handles what it had put off
    }
  }

  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#channel.detach();
    this.#rfb.disconnect();
    this.#channel.onclose?.({});
  }
}
