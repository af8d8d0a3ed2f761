// noVNC's RFB, with bounds on what the console's server may ask of this page.
import RFB from "@novnc/novnc";
import { CURSOR_SIDE_MAX, PIXELS_MAX } from "./bounds.js";

const SECURITY_NONE = 1;
const SECURITY_VNC = 2;
const EXTENDED_CLIPBOARD = 0xc0a1e5ce; // noVNC lists it unsigned

// An extended clipboard message is compressed, and noVNC has no bound on its size.
const { clientEncodings } = RFB.messages;
RFB.messages.clientEncodings = (sock, list) =>
  clientEncodings(sock, list.filter((one) => one >>> 0 !== EXTENDED_CLIPBOARD));

export class ScreenTooLarge extends Error {}

// The overridden methods are noVNC's own, not its API: the version is pinned, and tests use each.
export class BoundedRFB extends RFB {
  _isSupportedSecurityType(type) {
    return type === SECURITY_NONE || type === SECURITY_VNC;
  }

  _resize(width, height) {
    if (width * height > PIXELS_MAX) throw new ScreenTooLarge();
    super._resize(width, height);
  }

  _handleDataRect() {
    const { x, y, width, height } = this._FBU;
    if (x + width > this._fbWidth || y + height > this._fbHeight) {
      return this._fail("A rectangle lies outside the screen");
    }
    return super._handleDataRect();
  }

  // It handles an extended message, which is compressed, even where it was not announced.
  _handleServerCutText() {
    if (this._sock.rQwait("ServerCutText header", 7, 1)) return false;
    if (this._sock.rQpeekBytes(4 + 3, false)[3] & 0x80) {
      return this._fail("An extended clipboard message was not announced");
    }
    return super._handleServerCutText();
  }

  // A larger cursor could cover the page's own controls.
  _updateCursor(pixels, hotX, hotY, width, height) {
    if (width > CURSOR_SIDE_MAX || height > CURSOR_SIDE_MAX) super._updateCursor([], 0, 0, 0, 0);
    else super._updateCursor(pixels, hotX, hotY, width, height);
  }
}

/** The picture of one connection, and the keys and text sent to it. */
export class Screen {
  #rfb;
  #canvas;
  #channel;
  #credentials = {};
  #isClosed = false;

  constructor(target, channel, { viewOnly, scaled, label, listener }) {
    this.#channel = channel;
    this.#rfb = new BoundedRFB(target, channel, { shared: true });
    this.#rfb.background = "transparent";
    this.#rfb.showDotCursor = true;
    this.#rfb.scaleViewport = scaled;
    this.#rfb.viewOnly = viewOnly;
    this.#rfb.addEventListener("connect", () => {
      this.#forgetPassword();
      listener.connected();
    });
    this.#rfb.addEventListener("disconnect", () => {
      this.#isClosed = true;
    });
    this.#rfb.addEventListener("credentialsrequired", () => listener.passwordRequired());
    this.#rfb.addEventListener("desktopname", ({ detail }) => listener.named(detail.name));
    this.#rfb.addEventListener("clipboard", ({ detail }) => listener.copied(detail.text));
    this.#rfb.addEventListener("capabilities", ({ detail }) =>
      listener.powerOffered(detail.capabilities.power));
    this.#rfb.addEventListener("securityfailure", ({ detail }) => listener.rejected(detail.reason));
    this.#canvas = target.querySelector("canvas");
    this.#canvas.tabIndex = 0;
    this.#canvas.setAttribute("role", "application");
    this.label = label;
  }

  set label(text) {
    this.#canvas.setAttribute("aria-label", text);
  }

  set viewOnly(value) {
    this.#rfb.viewOnly = value;
  }

  set scaled(value) {
    this.#rfb.scaleViewport = value;
  }

  focus() {
    this.#rfb.focus({ preventScroll: true });
  }

  /** Send key events: {keysym, code, down}. */
  sendKeys(events) {
    for (const { keysym, code, down } of events) this.#rfb.sendKey(keysym, code, down);
  }

  sendPassword(password) {
    this.#credentials = { password };
    this.#rfb.sendCredentials(this.#credentials);
  }

  /** Shut down, restart or reset the server: "shutdown", "reboot" or "reset". */
  sendPower(operation) {
    const operations = {
      shutdown: () => this.#rfb.machineShutdown(),
      reboot: () => this.#rfb.machineReboot(),
      reset: () => this.#rfb.machineReset(),
    };
    operations[operation]();
  }

  sendClipboard(text) {
    this.#rfb.clipboardPasteFrom(text);
  }

  /** Draw the last picture into `canvas`. */
  copyTo(canvas) {
    canvas.width = this.#canvas.width;
    canvas.height = this.#canvas.height;
    if (canvas.width * canvas.height > 0) canvas.getContext("2d").drawImage(this.#canvas, 0, 0);
  }

  close() {
    this.#forgetPassword();
    if (this.#isClosed) return;
    this.#rfb.disconnect();
    this.#channel.onclose?.({});
  }

  #forgetPassword() {
    delete this.#credentials.password;
  }
}
