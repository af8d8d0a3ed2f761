"""Tickets: issued in place of links, described, and redeemed. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.domain.audit.record import ConsoleSessionFields
from gateway.domain.consoles.model import ConsoleTarget, PersonRef, SessionMode
from gateway.domain.errors import (
    AuditLogUnavailable,
    CallerLimited,
    ConsoleBusy,
    ConsoleStoreUnavailable,
    NotAuthenticated,
    NotPermitted,
    Rejection,
    SessionLimitReached,
    TicketRejected,
)
from gateway.domain.model import (
    CONSOLE_OPEN,
    CONSOLE_TAKEOVER,
    CONSOLE_VIEW,
    ProjectId,
    RuleKind,
)
from gateway.domain.policy.inventory import Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.selectors import Selector
from tests.support.audit import assert_documented, fields_of
from tests.support.console_world import ConsoleWorld, a_rule
from tests.support.consoles import OTHER_TARGET, PROJECT, SERVER, TARGET
from tests.support.live_consoles import Replica
from tests.support.virtual_time import run_virtually

CONTROL, VIEW = SessionMode.CONTROL, SessionMode.VIEW


def run(scenario: Callable[[Replica], Awaitable[None]]) -> None:
    async def main() -> None:
        replica = Replica(ConsoleWorld()).start()
        await scenario(replica)
        await replica.stop()
        assert replica.world.failures == []

    run_virtually(main())


def policy(*rules: object) -> Policy:
    return Policy(list(rules), version="v2")  # type: ignore[arg-type]


def test_ticket_is_recorded_and_calls_no_cloud() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        (record,) = replica.world.records
        assert (record.event, record.source) == ("console_ticket_issued", "ticket")
        assert isinstance(record.extra, ConsoleSessionFields)
        assert record.extra.mode == "control"
        assert ticket not in str(record)
        assert replica.world.cloud.calls == []

    run(scenario)


def test_each_request_gets_a_ticket_of_its_own() -> None:
    async def scenario(replica: Replica) -> None:
        person = replica.world.person()
        assert len({await replica.ticket(person) for _ in range(5)}) == 5

    run(scenario)


def test_ticket_needs_a_durable_record() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.is_audit_down = True
        with pytest.raises(AuditLogUnavailable):
            await replica.ticket()

    run(scenario)


@pytest.mark.parametrize("loses", ["policy", "revocation"])
def test_permission_lost_during_record_issues_no_ticket(loses: str) -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world

        def lose() -> None:
            if loses == "policy":
                world.policy = policy()
            else:
                world.tokens.refuse("ada")

        world.while_recorded = lose
        with pytest.raises(NotPermitted if loses == "policy" else NotAuthenticated):
            await replica.ticket()
        assert len(world.records) == 1

    run(scenario)


def test_tickets_count_in_the_rate_limit() -> None:
    async def scenario(replica: Replica) -> None:
        person = replica.world.person()
        for _ in range(1_000):
            replica.limits.admit(person.key)
        with pytest.raises(CallerLimited):
            await replica.ticket(person)

    run(scenario)


def test_ticket_is_for_the_greatest_mode() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.policy = policy(
            a_rule(CONSOLE_OPEN, "ada"), a_rule(CONSOLE_VIEW, "ada", "ben")
        )
        modes = []
        for subject in ("ada", "ben"):
            ticket = await replica.ticket(replica.world.person(subject))
            modes.append((await replica.redemption.describe(ticket, replica.context())).mode)
        assert modes == [CONTROL, VIEW]
        with pytest.raises(NotPermitted) as refusal:
            await replica.ticket(replica.world.person("cyd"))
        assert refusal.value.permission == CONSOLE_OPEN

    run(scenario)


def test_description_spends_nothing() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        for _ in range(3):
            described = await replica.redemption.describe(ticket, replica.context())
        assert described.person == PersonRef("ada", "corp")
        assert described.target == TARGET
        assert described.in_use is None
        assert 59 < described.expires_in_s <= 60
        await replica.redeem(ticket)

    run(scenario)


def test_ticket_opens_one_session_within_60_seconds() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        results = await asyncio.gather(
            *(replica.redeem(ticket) for _ in range(5)), return_exceptions=True
        )
        assert sum(not isinstance(one, Exception) for one in results) == 1
        late = await replica.ticket(replica.world.person("ben"))
        await asyncio.sleep(61)
        with pytest.raises(TicketRejected):
            await replica.redeem(late)
        assert len(replica.world.events("console_session_started")) == 1

    run(scenario)


def test_genuine_ticket_makes_one_record_and_garbage_none() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        await replica.redeem(ticket)
        for _ in range(3):
            with pytest.raises(TicketRejected) as rejected:
                await replica.redeem(ticket)
            assert rejected.value.is_genuine
            with pytest.raises(TicketRejected) as rejected:
                await replica.redeem("x" * 54)
            assert not rejected.value.is_genuine
        (record,) = replica.world.events("console_ticket_rejected")
        assert record.link_fingerprint == replica.world.records[0].link_fingerprint
        assert replica.world.metrics.rejected == {"gone": 3, "garbage": 3}

    run(scenario)


def test_foreign_origin_is_recorded_with_the_person() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        for _ in range(2):
            await replica.redemption.reject(
                ticket, replica.context(), "foreign origin", kind="origin"
            )
        (record,) = replica.world.events("console_ticket_rejected")
        assert (record.subject, record.detail) == ("ada", "foreign origin")
        await replica.redeem(ticket)

    run(scenario)


@pytest.mark.parametrize("reason", [Rejection.REVOKED, Rejection.LOCKED])
def test_revoked_or_locked_person_redeems_nothing(reason: Rejection) -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        replica.world.tokens.refuse("ada", reason)
        with pytest.raises(NotAuthenticated):
            await replica.redeem(ticket)
        (record,) = replica.world.events("console_ticket_rejected")
        assert record.subject == "ada"

    run(scenario)


def test_policy_is_checked_again_when_redeemed() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        replica.world.policy = policy()
        for action in (
            replica.redemption.describe(ticket, replica.context()),
            replica.redeem(ticket),
        ):
            with pytest.raises(NotPermitted):
                await action
        assert len(replica.world.events("console_ticket_rejected")) == 1

    run(scenario)


def test_lost_keyboard_right_leaves_a_view_only() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        replica.world.policy = policy(a_rule(CONSOLE_VIEW))
        with pytest.raises(NotPermitted):
            await replica.redeem(ticket, CONTROL)
        assert (await replica.redeem(ticket, VIEW)).session.mode is VIEW

    run(scenario)


def test_view_ticket_never_becomes_a_keyboard() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.policy = policy(a_rule(CONSOLE_VIEW))
        ticket = await replica.ticket()
        replica.world.policy = policy(a_rule(CONSOLE_VIEW), a_rule(CONSOLE_OPEN))
        with pytest.raises(NotPermitted):
            await replica.redeem(ticket, CONTROL)
        assert (await replica.redeem(ticket, VIEW)).session.mode is VIEW

    run(scenario)


def test_inventory_too_old_by_the_first_connection_opens_nothing() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        lab = Selector(tags=(("team", frozenset({"lab"})),))
        world.policy = policy(a_rule(selector=lab))
        now = world.clock.now()
        servers = {SERVER: Attributes(tags=frozenset({("team", "lab")}))}
        world.inventories.set(Inventory(servers, taken_at=now, good_until=now + 900))
        redeemed = await replica.redeem(await replica.ticket())
        world.inventories.inventory = Inventory({}, taken_at=now, good_until=now - 1)
        page = replica.open_page(redeemed)
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_old_inventory_opens_nothing_and_ends_nothing() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        lab = Selector(tags=(("team", frozenset({"lab"})),))
        world.policy = policy(a_rule(selector=lab))
        now = world.clock.now()
        inventory = Inventory(
            {SERVER: Attributes(tags=frozenset({("team", "lab")}))},
            taken_at=now,
            good_until=now + 900,
        )
        world.inventories.set(inventory)
        page = await replica.live()
        ticket = await replica.ticket(world.person("ben"))
        world.inventories.inventory = Inventory({}, taken_at=now, good_until=now - 1)
        await asyncio.sleep(2)
        assert page.is_live
        assert replica.watch.on_old_inventory == 1
        with pytest.raises(NotPermitted):
            await replica.redeem(ticket)
        page.lose()
        await page.task
        page = page.resume()
        await page.until("live")
        world.inventories.set(
            Inventory({SERVER: Attributes()}, taken_at=now, good_until=now + 9_000)
        )
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_ticket_of_another_account_is_rejected() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        replica.redemption._account_of = lambda _: None
        with pytest.raises(NotPermitted):
            await replica.redeem(ticket)

    run(scenario)


def test_second_person_reads_that_the_console_is_in_use() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = policy(
            a_rule(CONSOLE_OPEN), a_rule(CONSOLE_VIEW, "eve"), a_rule(CONSOLE_TAKEOVER, "tom")
        )
        await replica.live("ada")
        seen = {}
        for subject in ("ben", "eve", "tom"):
            ticket = await replica.ticket(world.person(subject))
            with pytest.raises(ConsoleBusy) as busy:
                await replica.redeem(ticket)
            described = await replica.redemption.describe(ticket, replica.context())
            assert described.in_use == busy.value.in_use
            in_use = busy.value.in_use
            seen[subject] = (in_use.by, in_use.may_take_over, in_use.may_view)
        assert seen == {
            "ben": (None, False, False),
            "eve": (PersonRef("ada", "corp"), False, True),
            "tom": (None, True, False),
        }
        assert not in_use.is_own

    run(scenario)


def test_own_session_is_taken_over_without_a_further_permission() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live("ada")
        ticket = await replica.ticket(replica.world.person("ada"))
        described = await replica.redemption.describe(ticket, replica.context())
        assert described.in_use is not None
        assert (described.in_use.is_own, described.in_use.may_take_over) == (True, True)
        assert described.in_use.by == PersonRef("ada", "corp")
        await replica.redeem(ticket, take_over=True)
        assert await page.until_closed() == (4006, "taken_over")
        assert page.frames[-1]["by"] == {"subject": "ada", "issuer": "corp"}

    run(scenario)


def test_taking_over_needs_its_permission() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = policy(a_rule(CONSOLE_OPEN), a_rule(CONSOLE_TAKEOVER, "tom"))
        page = await replica.live("ada")
        ticket = await replica.ticket(world.person("ben"))
        with pytest.raises(NotPermitted) as refusal:
            await replica.redeem(ticket, take_over=True)
        assert refusal.value.permission == CONSOLE_TAKEOVER
        assert page.is_live
        other = await replica.live("tom", take_over=True)
        assert await page.until_closed() == (4006, "taken_over")
        assert page.frames[-1]["by"] == {"subject": "tom", "issuer": "corp"}
        assert other.is_live
        (record,) = world.events("console_taken_over")
        assert (record.subject, record.target) == ("tom", "corp:ada")
        assert world.ends() == [("ada", "taken_over")]

    run(scenario)


def test_person_takes_over_their_own_session() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        await replica.live(take_over=True)
        assert await page.until_closed() == (4006, "taken_over")

    run(scenario)


def test_limits_per_person_name_the_limit() -> None:
    async def scenario(replica: Replica) -> None:
        person = replica.world.person()
        for number in range(5):
            server = type(SERVER)(f"00000000-0000-4000-8000-00000000001{number}")
            target = ConsoleTarget(TARGET.account, PROJECT, server)
            await replica.redeem(await replica.ticket(person, target))
        with pytest.raises(SessionLimitReached) as reached:
            await replica.redeem(await replica.ticket(person))
        assert reached.value.limit == "person"

    run(scenario)


def test_without_a_record_no_session_starts() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        replica.world.is_audit_down = True
        with pytest.raises(AuditLogUnavailable):
            await replica.redeem(ticket)
        assert await replica.store.sessions() == ()
        replica.world.is_audit_down = False
        await replica.live("ben")

    run(scenario)


def test_running_session_goes_on_without_the_audit_log() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        replica.world.is_audit_down = True
        page.lose()
        await page.task
        page = page.resume()
        await page.until("live")
        page.send(type="end")
        await page.until_closed()
        assert replica.world.ends() == [("ada", "person")]

    run(scenario)


def test_typist_sees_who_watches() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = policy(a_rule(CONSOLE_OPEN, "ada"), a_rule(CONSOLE_VIEW, "eve"))
        page = await replica.live("ada")
        viewer = await replica.live("eve", mode=VIEW)
        await asyncio.sleep(1)
        assert [one["subject"] for one in page.of_type("watchers")[-1]["watchers"]] == ["eve"]
        assert viewer.of_type("watchers") == []
        viewer.send(type="end")
        await viewer.until_closed()
        await asyncio.sleep(1)
        assert page.of_type("watchers")[-1]["watchers"] == []

    run(scenario)


def test_denial_of_open_leaves_view() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.policy = policy(
            a_rule(CONSOLE_OPEN),
            a_rule(CONSOLE_VIEW),
            a_rule(CONSOLE_OPEN, "ada", kind=RuleKind.DENIAL),
        )
        ticket = await replica.ticket()
        assert (await replica.redemption.describe(ticket, replica.context())).mode is VIEW

    run(scenario)


def test_all_records_are_documented() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live(target=OTHER_TARGET)
        page.send(type="end")
        await page.until_closed()
        ticket = await replica.ticket()
        await replica.redemption.reject(ticket, replica.context(), "origin", kind="origin")
        for record in replica.world.records:
            assert_documented(fields_of(record))

    run(scenario)


def test_ticket_of_a_lost_store_is_unavailable_elsewhere() -> None:
    async def scenario(replica: Replica) -> None:
        other = Replica(replica.world, "p2").start()
        replica.outage.is_down = other.outage.is_down = True
        ticket = await replica.ticket()
        with pytest.raises(ConsoleStoreUnavailable):
            await other.redeem(ticket)
        page = replica.open_page(await replica.redeem(ticket))
        await page.until("live")
        await other.stop()

    run(scenario)


def test_project_of_a_direct_account_issues_no_ticket() -> None:
    async def scenario(replica: Replica) -> None:
        assert replica.tickets.serves(PROJECT)
        assert not replica.tickets.serves(ProjectId("1" * 32))

    run(scenario)
