"""The upstream budget: a fair queue per account and kind of call."""

from gateway.config.accounts import Account
from gateway.domain.model import BudgetClass
from gateway.domain.queue.fair_queue import BudgetLimit
from gateway.domain.queue.pacing import Pace
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.flow.budgets import FairBudget
from gateway.flow.fair_budget import BudgetQueue
from gateway.process.runtime import Runtime


def open_budget(runtime: Runtime, valkey: Valkey) -> FairBudget:
    lines = [
        _open_line(runtime, valkey, account, kind)
        for account in runtime.config.accounts
        for kind in BudgetClass
    ]
    for line in lines:
        runtime.tasks[f"budget of {line.account} {line.budget.value}"] = line.run
        _register_gauges(runtime, line)
    return FairBudget(lines)


def _open_line(
    runtime: Runtime, valkey: Valkey, account: Account, kind: BudgetClass
) -> BudgetQueue:
    budget = account.budget
    rates = {BudgetClass.CONSOLE: budget.console, BudgetClass.IAM: budget.iam}[kind]
    # No request succeeds without the login, so a login waits for its slot without a limit.
    wait_max_s = {BudgetClass.CONSOLE: budget.wait_max_s, BudgetClass.IAM: float("inf")}[kind]
    limit = BudgetLimit(
        windows=tuple(Pace(rate.requests, rate.per_s, rate.burst) for rate in rates),
        queue_max=budget.queue_max,
        caller_max=budget.queue_caller_max,
    )
    name = f"{account.name}:{kind.value}"
    queue = ValkeyFairQueue(valkey, name, account=account.name, limit=limit, clock=runtime.clock)
    return BudgetQueue(
        account.name,
        kind,
        limit=limit,
        wait_max_s=wait_max_s,
        processes_max=runtime.config.store.processes_max,
        shared=queue,
        clock=runtime.clock,
        telemetry=runtime.metrics,
        jitter=runtime.random.random,
    )


def _register_gauges(runtime: Runtime, line: BudgetQueue) -> None:
    gauge = runtime.metrics.gauge
    labels = {"account": line.account, "budget": line.budget.value}
    gauge("gateway_budget_rate_ceiling", lambda: line.limit.ceiling, **labels)
    gauge("gateway_budget_rate", lambda: line.rate, **labels)
    gauge("gateway_budget_pause_seconds", lambda: line.paused_s, **labels)
    gauge("gateway_budget_queue_length", lambda: line.queued, **labels)
    gauge("gateway_budget_local_fallback", lambda: line.is_local, **labels)
