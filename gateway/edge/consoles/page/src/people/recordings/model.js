// Recordings as data: the query of a page, and the pages that were read so far.

export const PAGE_SIZE = 50;
const DAY_MS = 86_400_000;
export const SPANS_MS = { day: DAY_MS, week: 7 * DAY_MS, month: 30 * DAY_MS, all: null };

/** Return the path of a page. `filters`: {span, server, subject}; `until`: of the page before, or null. */
export function pagePath(filters, nowMs, until = null) {
  const query = new URLSearchParams({ limit: String(PAGE_SIZE) });
  const spanMs = SPANS_MS[filters.span] ?? null;
  if (spanMs !== null) query.set("since", new Date(nowMs - spanMs).toISOString());
  if (filters.server) query.set("server", filters.server.toLowerCase());
  if (filters.subject) query.set("subject", filters.subject);
  if (until !== null) query.set("until", until);
  return `/ui/console/recordings?${query}`;
}

/** Return the recordings of both pages, each once: a page may repeat one of the page before. */
export function joined(earlier, page) {
  const known = new Set(earlier.map((one) => one.id));
  return [...earlier, ...page.filter((one) => !known.has(one.id))];
}

/** Return a number of bytes in words. */
export function sizeText(bytes) {
  const steps = ["bytes", "KiB", "MiB", "GiB"];
  const step = Math.min(steps.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${(bytes / 1024 ** step).toFixed(step === 0 ? 0 : 1)} ${steps[step]}`;
}

/** Return the length in seconds, or null while it is in progress. */
export function lengthS({ started_at: start, ended_at: end }) {
  return end === null ? null : Math.max(0, (Date.parse(end) - Date.parse(start)) / 1000);
}
