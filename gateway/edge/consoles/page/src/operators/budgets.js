// The budget of each account, and the calls that wait for it.
import { BUDGETS } from "./texts.js";
import { Listing } from "./listing.js";
import { missing } from "./processes.js";

const { columns } = BUDGETS;

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
        const rows = data.processes.flatMap(({ process, budgets }) =>
          budgets.map((one) => ({ ...one, process })),
        );
        return { status, data, rows, note: missing(data) };
      },
      columns: [
        [columns.account, (one) => one.account],
        [columns.budget, (one) => one.budget],
        [columns.waiting, (one) => one.waiting],
        [columns.rate, (one) => (one.standalone ? BUDGETS.standalone(one.rate_per_s) : one.rate_per_s)],
        [columns.ceiling, (one) => one.ceiling_per_s],
        [columns.pause, (one) => BUDGETS.pause(one.pause_s)],
        [
          columns.callers,
          (one) =>
            Object.entries(one.waiting_by_caller)
              .map(([name, count]) => BUDGETS.caller(name, count))
              .join(", "),
        ],
        [columns.process, (one) => one.process],
      ],
    });
    root.replaceChildren(listing.element);
    return listing.refresh();
  }
}
