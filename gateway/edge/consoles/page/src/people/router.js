// The pages below one document: which view shows a path, and the browser's history.

/** Compile "/servers/:project/:server" to what finds its names. */
function compile(path) {
  const names = [];
  const pattern = path.replace(/:([a-z]+)/g, (_, name) => {
    names.push(name);
    return "([A-Za-z0-9._-]+)";
  });
  return { pattern: new RegExp(`^${pattern}/?$`), names };
}

export class Router {
  #routes;
  #root;

  /**
   * `routes`: {path, ...} in the order of the search. `base`: the path of the gateway's address.
   * The list of servers is at the address itself, all else below `/page`.
   */
  constructor(routes, base) {
    this.#routes = routes.map((route) => ({ ...route, ...compile(route.path) }));
    this.#root = base;
  }

  /** Return the browser's path of a path of the router, query included. */
  address(path) {
    return path === "/" || path.startsWith("/?") ? this.#root + path : `${this.#root}/page${path}`;
  }

  /** Return the router's path of a browser's path, or null if it is not one of these pages. */
  path(pathname) {
    if (pathname === this.#root || pathname === `${this.#root}/`) return "/";
    const start = `${this.#root}/page`;
    return pathname.startsWith(`${start}/`) ? pathname.slice(start.length) : null;
  }

  /** Return {route, params}: `params` has the names of the path, and `query`. Null: no view. */
  find(path, search = "") {
    for (const route of this.#routes) {
      const found = route.pattern.exec(path);
      if (found) {
        const named = route.names.map((name, i) => [name, found[i + 1]]);
        return { route, params: { ...Object.fromEntries(named), query: new URLSearchParams(search) } };
      }
    }
    return null;
  }
}

/** Return the path of the login that comes back to a page; `isFresh`: at the issuer again. */
export function loginPath(base, { pathname, search }, isFresh) {
  const query = new URLSearchParams();
  query.set("return", pathname + search);
  if (isFresh) query.set("fresh", "1");
  return `${base}/login?${query}`;
}
