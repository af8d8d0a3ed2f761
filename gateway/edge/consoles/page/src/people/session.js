// The session of this browser: who is logged in, and requests that need it.

export class BrowserSession {
  #base;
  #fetch;
  #csrfToken = "";

  /** `base`: the path of the gateway's address, without a final slash. */
  constructor(base, fetch) {
    this.#base = base;
    this.#fetch = fetch;
  }

  /** Return {status, data}: the session, or why there is none. Status 0: no answer. */
  async load() {
    const reply = await this.#request("/ui/session", { headers: { "X-Activity": "person" } });
    if (reply.status === 200) this.#csrfToken = reply.data.csrf_token;
    return reply;
  }

  /** End the session; data.location is the page that ends it at the issuer, too. */
  logOut() {
    return this.write("/logout", {});
  }

  /** Send a JSON body; `path` is below the gateway's address. */
  write(path, body, method = "POST") {
    return this.#request(path, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": this.#csrfToken },
      body: JSON.stringify(body),
    });
  }

  async #request(path, options) {
    try {
      const response = await this.#fetch(this.#base + path, {
        cache: "no-store",
        redirect: "error",
        credentials: "same-origin",
        ...options,
      });
      return { status: response.status, data: await response.json().catch(() => ({})) };
    } catch {
      return { status: 0, data: {} };
    }
  }
}
