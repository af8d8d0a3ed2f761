// The path to which a login returns. The gateway checks it again (domain/login/return_path.py).

const PATH = /^(\/[A-Za-z0-9._~-]+)*\/?(\?[A-Za-z0-9._~=&-]*)?$/;

/** Return `path` if it is a path of the gateway below `base`, else null. */
export function safeReturnPath(path, base) {
  if (!path || path.length > 512 || !path.startsWith(`${base}/`)) return null;
  const below = path.slice(base.length);
  const segments = below.split("?")[0].split("/");
  const isSafe = PATH.test(below) && !segments.includes(".") && !segments.includes("..");
  return isSafe ? path : null;
}
