// The admin API with the session of this browser.

export class AdminApi {
  #session;

  constructor(session) {
    this.#session = session;
  }

  /** Return {status, data}; parameters without a value are left out. Status 0: no answer. */
  read(path, parameters = {}) {
    const given = Object.entries(parameters).filter(([, value]) => value);
    const query = new URLSearchParams(given).toString();
    this.#session.noteActivity();
    return this.#session.get(`/ui/admin${path}${query ? `?${query}` : ""}`);
  }

  /** Send an action. */
  act(path, body) {
    return this.#session.write(`/ui/admin${path}`, body);
  }
}
