"""`make bench`: measurements side by side, printed and never asserted."""

from tests.benchmarks import (
    audit_cost,
    budget_cost,
    hit_path,
    inventory,
    memory,
    miss_path,
    policy_decision,
    policy_reload,
    proxy_path,
    recording_cost,
    relay_path,
    scrape_lag,
    server_lists,
    servers_page,
    side_by_side,
    storm,
    webhook_outage,
)

if __name__ == "__main__":
    policy_decision.main()
    policy_reload.main()
    inventory.main()
    server_lists.main()
    servers_page.main()
    memory.main()
    side_by_side.main()
    hit_path.main()
    audit_cost.main()
    miss_path.main()
    proxy_path.main()
    relay_path.main()
    recording_cost.main()
    budget_cost.main()
    scrape_lag.main()
    storm.main()
    webhook_outage.main()
