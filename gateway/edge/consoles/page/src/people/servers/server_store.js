// The person's servers, as the gateway last listed them; views follow it.
//
// The list is large and changes rarely; what changes often is a separate reading.
import { Poller, isFailure } from "../poller.js";
import { applyState, rowsOf, sorted } from "./list_model.js";

/** When the gateway has read the power of a server again that a person has switched. */
const AFTER_POWER_MS = [5_000, 17_000, 62_000];

const isOk = ({ status }) => status === 200 || status === 304;

export class ServerStore {
  #session;
  #poller;
  #listeners = new Set();
  #etags = { list: "", state: "" };
  #state = null;
  #byKey = new Map();
  projects = [];
  /** Sorted by name. */
  rows = [];
  /** Whether the list was read at least once. */
  isLoaded = false;
  /** Whether everyone on the consoles is known. */
  isPresenceComplete = true;
  /** The newest reply if it failed, else null. */
  failure = null;
  /** The gateway's time minus this browser's, in milliseconds. */
  skewMs = 0;

  constructor(session) {
    this.#session = session;
    this.#poller = new Poller(() => this.#read());
  }

  start() {
    this.#poller.start();
  }

  stop() {
    this.#poller.stop();
  }

  /** Read again when the gateway knows the power of a server that was switched. */
  followPower() {
    for (const ms of AFTER_POWER_MS) setTimeout(() => this.#poller.now(), ms);
  }

  /** Call `listener(isChanged)` after each reading; return what ends that. */
  follow(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Return the row of a server, or null. */
  find(project, id) {
    return this.#byKey.get(`${project}/${id}`) ?? null;
  }

  async #read() {
    const readings = [this.#get("state", "/ui/servers/state")];
    if (!this.isLoaded) readings.push(this.#get("list", "/ui/servers"));
    const replies = await Promise.all(readings);
    if (replies[0].status === 200) this.#state = replies[0].data;
    const isOutdated = this.isLoaded && isOk(replies[0]) && !this.#etags.list.includes(this.#state.list);
    if (isOutdated) replies.push(await this.#get("list", "/ui/servers"));
    const [, list] = replies;
    if (list?.status === 200) this.#takeList(list.data);
    const isChanged = replies.some(({ status }) => status === 200);
    if (isChanged && this.isLoaded && this.#state) this.#takeState();
    if (!Number.isNaN(replies[0].sentAt)) this.skewMs = replies[0].sentAt - Date.now();
    this.failure = replies.find((one) => !isOk(one)) ?? null;
    if (this.failure && !isFailure(this.failure.status)) this.#poller.stop();
    for (const listener of [...this.#listeners]) listener(isChanged);
    return this.failure ?? replies[0];
  }

  async #get(kind, path) {
    const reply = await this.#session.get(path, { etag: this.#etags[kind] });
    if (reply.status !== 200) return reply;
    // A network that demands a login of its own answers 200 with a page.
    if (!Array.isArray(reply.data.projects)) return { ...reply, status: 502 };
    this.#etags[kind] = reply.etag;
    return reply;
  }

  #takeList({ projects }) {
    this.projects = projects;
    this.rows = sorted(rowsOf(projects), { column: "name", isDescending: false });
    this.#byKey = new Map(this.rows.map((row) => [row.key, row]));
    this.isLoaded = true;
  }

  #takeState() {
    applyState(this.rows, this.projects, this.#state);
    this.isPresenceComplete = this.#state.consoles?.complete ?? true;
  }
}
