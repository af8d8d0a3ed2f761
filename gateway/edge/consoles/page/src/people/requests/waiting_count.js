// How many requests wait for the reader's decision, beside the link of the navigation.
import { make } from "../dom.js";
import { WAITING } from "./texts.js";

const COUNT_MAX = 99;
const PATH = `/ui/requests?filter=to_approve&state=pending&limit=${COUNT_MAX + 1}`;
const EVERY_MS = 60_000;

export class WaitingCount {
  #session;
  #link;
  #etag = "";
  #timer = 0;

  /** `link`: of the navigation. */
  constructor(session, link) {
    this.#session = session;
    this.#link = link;
  }

  /** Begin, if the reader decides on any requests: others cause no further requests. */
  async start() {
    const { status, data } = await this.#session.get("/ui/requests/rules");
    if (status !== 200 || !data.approver) return;
    document.addEventListener("visibilitychange", () => this.#read());
    // A view has taken a step.
    document.addEventListener("request-changed", () => this.#read());
    this.#read();
  }

  async #read() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const reply = await this.#session.get(PATH, { etag: this.#etag });
    if (reply.status === 200) {
      this.#etag = reply.etag;
      this.#show(reply.data.requests.length);
    }
    if (reply.status === 401) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#read(), EVERY_MS);
  }

  #show(count) {
    this.#link.querySelector(".count-badge")?.remove();
    if (count === 0) return;
    const shown = count > COUNT_MAX ? `${COUNT_MAX}+` : String(count);
    const words = make("span", { className: "unseen", textContent: WAITING });
    this.#link.append(make("span", { className: "count-badge" }, shown, words));
  }
}
