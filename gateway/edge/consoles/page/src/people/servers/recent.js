// The servers that this person opened last in this browser: IDs only, no names.

const COUNT_MAX = 6;

export class RecentServers {
  #storage;
  #key;

  /** `person`: {issuer, subject}. Several people may use one browser. */
  constructor(storage, person) {
    this.#storage = storage;
    this.#key = `recent-servers ${JSON.stringify([person.issuer, person.subject])}`;
  }

  /** Return "PROJECT/ID" of each, the newest first. */
  get keys() {
    try {
      const stored = JSON.parse(this.#storage.getItem(this.#key));
      return Array.isArray(stored) ? stored.filter((one) => typeof one === "string") : [];
    } catch {
      return [];
    }
  }

  add(key) {
    const keys = [key, ...this.keys.filter((one) => one !== key)].slice(0, COUNT_MAX);
    try {
      this.#storage.setItem(this.#key, JSON.stringify(keys));
    } catch {
      // Storage is full or not allowed: the list of recent servers is only a convenience.
    }
  }
}
