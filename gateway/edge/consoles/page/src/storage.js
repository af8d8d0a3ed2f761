// What a tab keeps for a reload: the session's address and its newest resume key.

const KEY = "console-session";
/** How long a reload waits for its previous page: a busy browser is slow to release the lock. */
const LOCK_WITHIN_MS = 3000;

export class StoredSession {
  #storage;

  constructor(storage) {
    this.#storage = storage;
  }

  load() {
    try {
      const data = JSON.parse(this.#storage.getItem(KEY));
      return typeof data?.socket === "string" && typeof data?.resume_key === "string" ? data : null;
    } catch {
      return null;
    }
  }

  save(data) {
    this.#storage.setItem(KEY, JSON.stringify({ ...this.load(), ...data }));
  }

  clear() {
    this.#storage.removeItem(KEY);
  }
}

/**
 * Return a function that releases the session's lock, or null if another tab of this browser has
 * it: a duplicated tab has a copy of the storage, and must not take the console from the original.
 * A reload waits for its previous page to release the lock.
 */
export function lockSession(locks, sessionId, { steal = false } = {}) {
  if (!locks) return Promise.resolve(() => {});
  return new Promise((resolve) => {
    const options = steal ? { steal } : { signal: AbortSignal.timeout(LOCK_WITHIN_MS) };
    const hold = () => new Promise((release) => resolve(release));
    locks.request(`console-${sessionId}`, options, hold).catch(() => resolve(null));
  });
}
