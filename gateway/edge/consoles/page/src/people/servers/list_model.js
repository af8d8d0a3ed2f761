// The list of servers as data: rows, search, filters and order. No document, no network.

const POWER_ORDER = ["on", "off"];

/** Return text in the form in which search compares it. */
export function folded(text) {
  return text.normalize("NFKC").toLowerCase();
}

/** Return "cn-east-3 · dc-1 · r3 · u7" of the parts that are known. */
function locationText(project, location) {
  const parts = [project.region, location?.dc, location?.rack, location?.unit];
  return parts.filter(Boolean).join(" · ");
}

function rowOf(project, server) {
  const tags = (server.tags ?? []).map(({ key, value }) => (value ? `${key}=${value}` : key));
  const location = locationText(project, server.location);
  const row = {
    key: `${project.project_id}/${server.id}`,
    project,
    id: server.id,
    name: server.name ?? "",
    location,
    region: project.region ?? "",
    model: server.model ?? "",
    power: server.power_state ?? "",
    health: server.health_state ?? "",
    /** As the list has it. */
    listed: { power: server.power_state ?? "", health: server.health_state ?? "" },
    readAt: null,
    tags,
    may: new Set(server.permissions),
    /** {by, mode} of each person on the console; null: not known, or not for this person. */
    use: null,
  };
  const words = [row.name, row.id, location, row.model, project.project_name, project.account];
  row.text = folded([...words, ...tags].join("\n"));
  return row;
}

/** Return the rows of the gateway's answer, in its order. */
export function rowsOf(projects) {
  return projects.flatMap((project) => project.servers.map((server) => rowOf(project, server)));
}

/** Enter what changes often (`/ui/servers/state`) in the rows and their projects. */
export function applyState(rows, projects, state) {
  const ofProject = new Map(state.projects.map((one) => [one.project_id, one]));
  for (const project of projects) {
    const { listed_at: listedAt = null, is_current: isCurrent = true, problem = null } =
      ofProject.get(project.project_id) ?? {};
    Object.assign(project, { listedAt, isCurrent, problem });
  }
  const key = (one) => `${one.project_id}/${one.server_id}`;
  const power = new Map(state.power.map((one) => [key(one), one]));
  const users = new Map();
  for (const one of state.consoles?.sessions ?? []) {
    const others = users.get(key(one)) ?? [];
    users.set(key(one), [...others, { by: one.person, mode: one.mode, since: one.since }]);
  }
  for (const row of rows) {
    const read = power.get(row.key);
    row.power = read?.power_state ?? row.listed.power;
    row.health = read?.health_state ?? row.listed.health;
    row.readAt = read?.read_at ?? row.project.listedAt;
    row.use = state.consoles && row.may.has("console:view") ? (users.get(row.key) ?? []) : null;
  }
}

const FILTERS = {
  region: (row, value) => row.region === value,
  power: (row, value) => row.power === value,
  health: (row, value) => row.health === value,
  may: (row, value) => MAY[value]?.(row) ?? true,
};
const MAY = {
  console: (row) => mayOpen(row) || mayWatch(row),
  power: (row) => row.may.has("server:power"),
  used: (row) => Boolean(row.use?.length),
};

export const mayOpen = (row) => row.may.has("console:open");
export const mayWatch = (row) => row.may.has("console:view") && row.project.delivery === "proxied";

/** Return a test of rows: every word of the search occurs, and every filter applies. */
export function matcher({ search = "", filters = {} }) {
  const words = folded(search).split(/\s+/).filter(Boolean);
  const set = Object.entries(filters).filter(([name, value]) => value && FILTERS[name]);
  return (row) =>
    words.every((word) => row.text.includes(word)) &&
    set.every(([name, value]) => FILTERS[name](row, value));
}

const ORDERS = {
  location: (row) => row.location,
  health: (row) => row.health,
  tags: (row) => row.tags.join(" "),
  use: (row) => (row.use?.length ? "0" : "1"),
  power: (row) => String((POWER_ORDER.indexOf(row.power) + 3) % 3),
};

/** Return a new array of the rows in an order; rows without a value are last, ties by name. */
export function sorted(rows, { column, isDescending }) {
  const { compare } = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const key = ORDERS[column] ?? ((row) => row.name);
  const keyed = rows.map((row) => ({ row, key: key(row), name: row.name || row.id }));
  const sign = isDescending ? -1 : 1;
  keyed.sort((a, b) => {
    if (!a.key !== !b.key) return a.key ? -1 : 1;
    return sign * compare(a.key, b.key) || compare(a.name, b.name) || compare(a.row.id, b.row.id);
  });
  return keyed.map(({ row }) => row);
}

/** Return the different values of a member of the rows, sorted. */
export function valuesOf(rows, member) {
  const { compare } = new Intl.Collator(undefined, { numeric: true });
  return [...new Set(rows.map((row) => row[member]).filter(Boolean))].sort(compare);
}
