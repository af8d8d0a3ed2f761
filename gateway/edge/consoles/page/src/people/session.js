// The session of this browser: who is logged in, and requests that need it.

const LOGIN_REQUIRED = "CGW.4011";
export const FRESH_LOGIN_REQUIRED = "CGW.4036";
const PIECE_BYTES = 4 * 1024 * 1024;

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
    const reply = await this.#request(path, this.#writing(method, body));
    this.#checkLogin(reply);
    return reply;
  }

  /**
   * Send a write whose response is a file. Return as `write` does, with `file`: a Blob, or null if
   * the response ended early. `onBytes` is called with the number of bytes so far; `signal` aborts.
   */
  async download(path, { onBytes, signal }) {
    let response = null;
    try {
      response = await this.#send(path, { ...this.#writing("POST", {}), signal });
      if (response.status === 200) {
        const file = await readFile(response, onBytes);
        return { ...headReply(response), data: {}, file };
      }
    } catch {
      if (response !== null) return { ...headReply(response), data: {}, file: null };
      return { ...NO_REPLY, file: null };
    }
    const reply = await bodyReply(response);
    this.#checkLogin(reply);
    return { ...reply, file: null };
  }

  #writing(method, body) {
    return {
      method,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": this.#csrfToken },
      body: JSON.stringify(body),
    };
  }

  #checkLogin(reply) {
    const { status, data } = reply;
    if (needsLogin(reply)) this.#onLoginRequired(false);
    if (status === 403 && data.error_code === FRESH_LOGIN_REQUIRED) this.#onLoginRequired(true);
  }

  async #request(path, options) {
    try {
      return await bodyReply(await this.#send(path, options));
    } catch {
      return NO_REPLY;
    }
  }

  #send(path, options) {
    return this.#fetch(this.#base + path, {
      cache: "no-store",
      redirect: "error",
      credentials: "same-origin",
      ...options,
    });
  }
}

const NO_REPLY = { status: 0, data: {}, etag: "", retryAfterS: 0, requestId: "", sentAt: NaN };

function headReply({ status, headers }) {
  return {
    status,
    etag: headers?.get("ETag") ?? "",
    retryAfterS: Number(headers?.get("Retry-After")) || 0,
    requestId: headers?.get("X-Request-Id") ?? "",
    sentAt: Date.parse(headers?.get("Date") ?? ""),
  };
}

async function bodyReply(response) {
  // Read to its end, or the browser cancels it.
  const data = await response.json().catch(() => ({}));
  return { ...headReply(response), data };
}

/** Return the body as a Blob: browsers store a large one on disk, not in the page's memory. */
async function readFile(response, onBytes) {
  const reader = response.body.getReader();
  let file = new Blob();
  let pieces = [];
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Blob([file, ...pieces], { type: "application/octet-stream" });
    pieces.push(value);
    bytes += value.length;
    if (bytes - file.size >= PIECE_BYTES) {
      file = new Blob([file, ...pieces]);
      pieces = [];
    }
    onBytes(bytes);
  }
}
