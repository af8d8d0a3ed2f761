// What was typed into the form of a request, for when a login interrupts it. For its person only.

const KEY = "request-draft";

export class Draft {
  #storage;
  #owner;

  constructor(storage, { issuer, subject }) {
    this.#storage = storage;
    this.#owner = JSON.stringify([issuer, subject]);
  }

  /** Return what was saved, or null. */
  load() {
    try {
      const { owner, wanted } = JSON.parse(this.#storage.getItem(KEY));
      return owner === this.#owner && typeof wanted === "object" ? wanted : null;
    } catch {
      return null;
    }
  }

  save(wanted) {
    try {
      this.#storage.setItem(KEY, JSON.stringify({ owner: this.#owner, wanted }));
    } catch {
      // Storage is full or not allowed: then a login loses the form.
    }
  }

  clear() {
    this.#storage.removeItem(KEY);
  }
}
