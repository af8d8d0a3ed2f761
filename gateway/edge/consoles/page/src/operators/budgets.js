// The budget of each account, and the calls that wait for it.
import { BUDGETS } from "./texts.js";
import { Listing } from "./listing.js";
import { missing } from "./processes.js";

const { columns } = BUDGETS;

/**
 * Return a row for each budget: replicas share it in Redis, so their callers are added up. A process
 * without Redis has a row of its own.
 */
function budgetRows(processes) {
  const rows = new Map();
  for (const { process, budgets } of processes) {
    for (const one of budgets) {
      const key = JSON.stringify([one.account, one.budget, one.standalone && process]);
      const row = rows.get(key) ?? { ...one, waiting_by_caller: {}, processes: [] };
      row.processes.push(process);
      for (const [name, count] of Object.entries(one.waiting_by_caller)) {
        row.waiting_by_caller[name] = (row.waiting_by_caller[name] ?? 0) + count;
      }
      rows.set(key, row);
    }
  }
  return [...rows.values()];
}

export class BudgetsView {
  #tools;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    const listing = new Listing(this.#tools, {
      name: BUDGETS.table,
      empty: BUDGETS.empty,
      load: async () => {
        const { status, data } = await this.#tools.api.read("/queue");
        if (status !== 200) return { status, data };
        return { status, data, rows: budgetRows(data.processes), note: missing(data) };
      },
      columns: [
        [columns.account, (one) => one.account],
        [columns.budget, (one) => one.budget],
        [columns.waiting, (one) => one.waiting],
        [columns.rate, (one) => BUDGETS[one.standalone ? "standalone" : "rate"](one.rate_per_s)],
        [columns.ceiling, (one) => BUDGETS.rate(one.ceiling_per_s)],
        [columns.pause, (one) => BUDGETS.pause(one.pause_s)],
        [
          columns.callers,
          (one) =>
            Object.entries(one.waiting_by_caller)
              .map(([name, count]) => BUDGETS.caller(name, count))
              .join(", "),
        ],
        [columns.process, (one) => one.processes.join(", ")],
      ],
    });
    root.replaceChildren(listing.element);
    return listing.refresh();
  }
}
