// The session of this browser: who is logged in, and requests that need it.

const LOGIN_REQUIRED = "CGW.4011";
export const FRESH_LOGIN_REQUIRED = "CGW.4036";

/** Whether a reply says that there is no login: a locked person gets another 401. */
export function needsLogin({ status, data }) {
  return status === 401 && data.error_code === LOGIN_REQUIRED;
}

export class BrowserSession {
  #base;
  #fetch;
  #csrfToken = "";
  #isActive = true;
  #onLoginRequired;

  /**
   * `base`: the path of the gateway's address, without a final slash. `onLoginRequired` is called
   * when a request needs a login, with whether it is a recent one that is missing.
   */
  constructor(base, fetch, onLoginRequired = () => {}) {
    this.#base = base;
    this.#fetch = fetch;
    this.#onLoginRequired = onLoginRequired;
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

  /** Note that the person does something: the next request says so. Polling alone does not. */
  noteActivity() {
    this.#isActive = true;
  }

  /**
   * Read `path`, which is below the gateway's address. With the `etag` of an earlier reply, an
   * unchanged one has status 304. Return {status, data, etag, retryAfterS, requestId, sentAt};
   * `sentAt` is the gateway's time in milliseconds, or NaN.
   */
  async get(path, { etag = "" } = {}) {
    const headers = {};
    if (etag) headers["If-None-Match"] = etag;
    const isActive = this.#isActive;
    this.#isActive = false;
    if (isActive) headers["X-Activity"] = "person";
    const reply = await this.#request(path, { headers });
    if (reply.status === 0) this.#isActive ||= isActive;
    this.#checkLogin(reply);
    return reply;
  }

  /** Send a JSON body; `path` is below the gateway's address. Return as `get` does. */
  async write(path, body, method = "POST") {
    const reply = await this.#request(path, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": this.#csrfToken },
      body: JSON.stringify(body),
    });
    this.#checkLogin(reply);
    return reply;
  }

  #checkLogin(reply) {
    const { status, data } = reply;
    if (needsLogin(reply)) this.#onLoginRequired(false);
    if (status === 403 && data.error_code === FRESH_LOGIN_REQUIRED) this.#onLoginRequired(true);
  }

  async #request(path, options) {
    try {
      const response = await this.#fetch(this.#base + path, {
        cache: "no-store",
        redirect: "error",
        credentials: "same-origin",
        ...options,
      });
      const { status, headers } = response;
      // Read to its end, or the browser cancels it.
      const data = await response.json().catch(() => ({}));
      return {
        status,
        data,
        etag: headers?.get("ETag") ?? "",
        retryAfterS: Number(headers?.get("Retry-After")) || 0,
        requestId: headers?.get("X-Request-Id") ?? "",
        sentAt: Date.parse(headers?.get("Date") ?? ""),
      };
    } catch {
      return { status: 0, data: {}, etag: "", retryAfterS: 0, requestId: "", sentAt: NaN };
    }
  }
}
