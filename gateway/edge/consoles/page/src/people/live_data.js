// What one path returns, read again and again: conditional requests, none while the tab is hidden.
import { Poller } from "./poller.js";

const LAST_STATUSES = new Set([400, 401, 403, 404]);

export class LiveData {
  #session;
  #path;
  #onChange;
  #poller;
  #etag = "";
  #version = 0;
  /** What the path returned last; it stays while the gateway does not answer. */
  data = null;
  /** "loading", "ready", "offline", "expired" or "failed". */
  state = "loading";
  /** The gateway's reply, where `state` is "failed". */
  problem = null;

  /** `onChange` is called after each change of `state` or `data`. */
  constructor(session, path, onChange, newPoller = (read) => new Poller(read)) {
    this.#session = session;
    this.#path = path;
    this.#onChange = onChange;
    this.#poller = newPoller(() => this.#read());
  }

  start() {
    this.#poller.start();
  }

  stop() {
    this.#version += 1;
    this.#poller.stop();
  }

  /** Read at once, also after a state that ends the polling. */
  retry() {
    this.state = this.data === null ? "loading" : this.state;
    this.#onChange();
    this.#poller.start();
  }

  /** Take data that a write returned. A reading that has begun before is not shown. */
  replace(data) {
    this.#version += 1;
    this.#etag = "";
    this.data = data;
    this.#note("ready");
  }

  async #read() {
    const version = this.#version;
    const reply = await this.#session.get(this.#path, { etag: this.#etag });
    if (version !== this.#version) return reply;
    if (reply.status === 200) {
      this.#etag = reply.etag;
      this.data = reply.data;
      this.#note("ready");
    } else if (reply.status === 304) {
      if (this.state !== "ready") this.#note("ready");
    } else if (reply.status === 401) {
      this.data = null; // nothing of the person stays in a tab that others may see
      this.#note("expired");
    } else if (reply.status === 0) {
      this.#note("offline");
    } else {
      this.#note("failed", reply);
    }
    if (LAST_STATUSES.has(reply.status)) this.#poller.stop();
    return reply;
  }

  #note(state, problem = null) {
    this.state = state;
    this.problem = problem;
    this.#onChange();
  }
}
