// Access requests: in which list one belongs, what a new one contains, and what is wrong with it.

export const REASON_CHARS_MAX = 2000;
export const SERVERS_MAX = 20;
const DURATIONS_S = [900, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400, 259_200, 604_800];
const DEFAULT_S = 3600;
const SERVER_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const PROJECT = /^[A-Za-z0-9_-]{1,64}$/;
const TICKET = /^[A-Za-z0-9][A-Za-z0-9._/#:-]{0,63}$/;

/** Return open requests by list: those to decide on, the reader's own, the access of others. */
export function sections(requests) {
  const toDecide = requests.filter((one) => one.may.includes("approve"));
  const own = requests.filter((one) => one.own);
  const others = requests.filter((one) => !one.own && !one.may.includes("approve"));
  return { toDecide, own, others };
}

/** Return the seconds from `nowMs` to a time of the API, at least 0. */
export function secondsUntil(text, nowMs) {
  return Math.max(0, (Date.parse(text) - nowMs) / 1000);
}

/** Whether the requester may want more time: of access that runs or has ended by itself. */
export function isExtendable({ own, state }) {
  return own && (state === "active" || state === "ended");
}

/** Return the durations to choose from, in seconds: common ones, and the longest. */
export function durationChoices(longestS) {
  return [...new Set([...DURATIONS_S.filter((one) => one < longestS), longestS])];
}

/** Return the duration that is chosen first. */
export function firstDuration(longestS, wantedS = DEFAULT_S) {
  return Math.min(wantedS, longestS);
}

/** Return the server IDs in a text: separated by spaces, commas or lines; also PROJECT/SERVER. */
export function serverIds(text) {
  const words = text
    .toLowerCase()
    .split(/[\s,;]+/)
    .filter(Boolean);
  return [...new Set(words.map((one) => one.slice(one.lastIndexOf("/") + 1)))];
}

/** Return the project that a text of servers names as PROJECT/SERVER, or "". */
export function namedProject(text) {
  const found = /(?:^|[\s,;])([A-Za-z0-9_-]{1,64})\/[0-9a-fA-F-]{36}(?=$|[\s,;])/.exec(text);
  return found ? found[1] : "";
}

/**
 * Return {project, servers} with the names of servers replaced by IDs. `rows`: the servers that
 * the reader sees, with `name`, `id` and `project`. A name that several servers have stays.
 */
export function withoutNames(words, project, rows) {
  let named = project;
  const servers = words.map((word) => {
    if (SERVER_ID.test(word)) return word;
    const found = rows.filter(
      (row) => row.name.toLowerCase() === word && (!named || row.project.project_id === named),
    );
    if (found.length !== 1) return word;
    named = found[0].project.project_id;
    return found[0].id;
  });
  return { project: named, servers: [...new Set(servers)] };
}

/**
 * Return the problem of each field, by its name. `form`: {project, servers, reason, ticket,
 * isBreakGlass}; `texts` has a text for each problem.
 */
export function formProblems(form, rule, texts) {
  const problems = {};
  const wrong = form.servers.filter((one) => !SERVER_ID.test(one));
  if (!PROJECT.test(form.project)) problems.project = texts.project;
  if (form.servers.length === 0) problems.servers = texts.noServer;
  else if (wrong.length > 0) problems.servers = texts.serverForm(wrong[0]);
  else if (form.servers.length > SERVERS_MAX) problems.servers = texts.tooManyServers(SERVERS_MAX);
  const reason = form.reason.trim();
  const least = form.isBreakGlass ? rule.break_glass.reason_min : 1;
  if (!reason) problems.reason = texts.noReason;
  else if ([...reason].length < least) problems.reason = texts.shortReason(least);
  else if ([...form.reason].length > REASON_CHARS_MAX)
    problems.reason = texts.longReason([...form.reason].length, REASON_CHARS_MAX);
  if (form.ticket ? !TICKET.test(form.ticket) : rule.ticket_required) {
    problems.ticket = form.ticket ? texts.ticketForm : texts.noTicket;
  }
  return problems;
}

/** Return the body of a new request. */
export function requestBody(form, rule) {
  return {
    rule: rule.rule,
    role: rule.role,
    project_id: form.project,
    server_ids: form.servers,
    duration_s: form.durationS,
    reason: form.reason.trim(),
    ...(form.ticket ? { ticket: form.ticket } : {}),
    ...(form.isBreakGlass ? { break_glass: true } : {}),
  };
}

/**
 * Return the rule to begin with: that of an earlier request, else the first one with its role,
 * else the first one whose IDs allow its project and servers.
 */
export function ruleFor(rules, wanted) {
  const servers = serverIds(wanted.servers ?? "");
  const allows = ({ project_ids: projects, server_ids: ids }) =>
    (projects.length === 0 || !wanted.project || projects.includes(wanted.project)) &&
    (ids.length === 0 || servers.every((one) => ids.includes(one)));
  return (
    rules.find((one) => one.rule === wanted.rule) ??
    rules.find((one) => one.role === wanted.role && allows(one)) ??
    rules.find(allows) ??
    rules[0]
  );
}
