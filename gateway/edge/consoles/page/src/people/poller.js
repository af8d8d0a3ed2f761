// Reads a path again and again: not while the tab is hidden, slower while it fails.

const EVERY_MS = 15_000;
const FIRST_FAILURE_MS = 1_000;
const SLOWEST_MS = 120_000;

/** Return the milliseconds until the next reading; `random` is in [0, 1). */
export function nextWaitMs({ failures, retryAfterS }, random) {
  // Replicas restart, and all pages of a company are open: they come back at different times.
  const spread = 0.8 + 0.4 * random;
  if (failures === 0) return Math.round(EVERY_MS * spread);
  const backOff = Math.min(SLOWEST_MS, FIRST_FAILURE_MS * 2 ** (failures - 1)) * spread;
  return Math.round(Math.max(backOff, retryAfterS * 1000));
}

/** Whether a reply says that the next one may be better. */
export function isFailure(status) {
  return status === 0 || status === 429 || status >= 500;
}

export class Poller {
  #read;
  #isRunning = false;
  #isReading = false;
  #timer = null;
  #failures = 0;

  /** `read` returns a promise of {status, retryAfterS}. */
  constructor(read) {
    this.#read = read;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.now();
      else clearTimeout(this.#timer);
    });
    addEventListener("online", () => this.now());
  }

  start() {
    this.#isRunning = true;
    this.now();
  }

  /** Stop; a reading that runs is let be. */
  stop() {
    this.#isRunning = false;
    clearTimeout(this.#timer);
  }

  /** Read at once, unless a reading runs. */
  async now() {
    if (!this.#isRunning || this.#isReading || document.hidden) return;
    clearTimeout(this.#timer);
    this.#isReading = true;
    const { status, retryAfterS } = await this.#read().finally(() => {
      this.#isReading = false;
    });
    this.#failures = isFailure(status) ? this.#failures + 1 : 0;
    if (!this.#isRunning || document.hidden) return;
    const waitMs = nextWaitMs({ failures: this.#failures, retryAfterS }, Math.random());
    this.#timer = setTimeout(() => this.now(), waitMs);
  }
}
