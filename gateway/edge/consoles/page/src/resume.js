// When a page that lost its connection tries again.

const DELAY_MAX_MS = 8000;
const STABLE_MS = 30000;

export class ResumePolicy {
  #withinMs;
  #attempts = 0;
  #lostAt = null;
  #liveSince = null;

  /**
   * `withinMs`: how long the gateway keeps a session without a connection. `lostAt`: when the page
   * that was here before a reload lost it, or null.
   */
  constructor(withinMs, lostAt = null) {
    this.#withinMs = withinMs;
    this.#lostAt = lostAt;
  }

  /** Return when the outage ends for good, or null without one. */
  get deadline() {
    return this.#lostAt === null ? null : this.#lostAt + this.#withinMs;
  }

  /** The gateway accepted the connection: the outage is over. */
  attached() {
    this.#lostAt = null;
  }

  live(now) {
    this.#liveSince = now;
  }

  /**
   * Return the milliseconds to wait before the next attempt, or null if it would be too late.
   * Each resume costs a link of the cloud: a network that fails again soon goes on waiting longer.
   */
  lost(now) {
    if (this.#liveSince !== null && now - this.#liveSince >= STABLE_MS) this.#attempts = 0;
    this.#liveSince = null;
    this.#lostAt ??= now;
    const delay = this.#attempts === 0 ? 0 : Math.min(1000 * 2 ** (this.#attempts - 1), DELAY_MAX_MS);
    if (now + delay >= this.deadline) return null;
    this.#attempts += 1;
    return delay;
  }
}
