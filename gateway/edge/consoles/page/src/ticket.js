// The ticket: read from the address's fragment, described, and redeemed for a session.

const RETRY_MS = 1000;

/** Return the ticket in the address, and remove it from the address and the history at once. */
export function takeTicket(location, history) {
  const ticket = location.hash.slice(1);
  if (ticket) history.replaceState(null, "", location.pathname + location.search);
  return ticket || null;
}

export class TicketClient {
  #ticket;
  #isParked;
  #deadline;
  #fetch;
  #timers;

  /** `ticket`: its text, or null for the parked ticket of this browser. */
  constructor({ ticket, lifetimeMs, fetch, timers }) {
    this.#ticket = ticket;
    this.#isParked = ticket === null;
    this.#fetch = fetch;
    this.#timers = timers;
    this.#deadline = timers.now() + lifetimeMs;
  }

  /** Whether the ticket is parked: in a cookie of this browser, until its person has logged in. */
  get isParked() {
    return this.#isParked;
  }

  /** Return when the ticket expires, in the time of `timers`. */
  get deadline() {
    return this.#deadline;
  }

  async describe() {
    const reply = await this.#post(this.#isParked ? "console/parked" : "console/ticket", {});
    if (reply.ok) this.#deadline = this.#timers.now() + 1000 * reply.data.expires_in;
    return reply;
  }

  /** Spend the ticket for everyone else, until its person has logged in in this browser. */
  async park() {
    const reply = await this.#post("console/park", {}, { spends: true });
    if (reply.ok) {
      this.#ticket = null;
      this.#isParked = true;
    }
    return reply;
  }

  redeem(mode, takeOver) {
    return this.#post("console/redeem", { mode, take_over: takeOver }, { spends: true });
  }

  /**
   * Return {ok, status, data, serverTime, mayBeSpent}. Status 0: the gateway did not answer.
   * 429 and 503 are tried again until the ticket expires: another replica may have it.
   * `mayBeSpent`: an attempt that failed may have spent the ticket.
   */
  async #post(path, body, { spends = false } = {}) {
    let mayBeSpent = false;
    for (;;) {
      const reply = await this.#once(path, body);
      if (reply.ok || ![0, 429, 503].includes(reply.status)) return { ...reply, mayBeSpent };
      mayBeSpent ||= spends && reply.status !== 429;
      const delay = reply.retryAfterMs ?? RETRY_MS;
      if (this.#timers.now() + delay >= this.#deadline) return reply;
      await new Promise((resolve) => this.#timers.set(resolve, delay));
    }
  }

  #named() {
    return this.#isParked ? { parked: true } : { ticket: this.#ticket };
  }

  async #once(path, body) {
    try {
      const response = await this.#fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...this.#named(), ...body }),
        cache: "no-store",
        redirect: "error",
      });
      const seconds = Number(response.headers.get("Retry-After") || Number.NaN);
      const served = Date.parse(response.headers.get("Date") ?? "");
      return {
        ok: response.ok,
        status: response.status,
        data: await response.json().catch(() => ({})),
        retryAfterMs: Number.isFinite(seconds) ? 1000 * seconds : null,
        serverTime: Number.isFinite(served) ? served : null,
      };
    } catch {
      return { ok: false, status: 0, data: {}, retryAfterMs: null, serverTime: null };
    }
  }
}
