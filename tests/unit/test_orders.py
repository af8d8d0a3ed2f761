"""What is ordered: who is refused, until when, whatever the order it is heard of."""

from itertools import permutations

import pytest

from gateway.domain.model import Principal
from gateway.domain.overrides import (
    NOTHING_KEPT,
    Ceiling,
    DroppedLinks,
    KeptOrders,
    Lifted,
    LogLevels,
    Order,
    Orders,
    RevokedBefore,
    RevokedSubject,
    RevokedToken,
    What,
    kept_from_text,
    kept_to_text,
    order_from_text,
    order_to_text,
)

NOW = 1_000.0


def an_order(name: str, what: What, *, at: float = NOW, until: float = NOW + 600) -> Order:
    return Order(name, at, until, "corp:ada", "", what)


def principal(subject: str = "olga", *, issued_at: float = NOW, token_id: str = "t") -> Principal:
    return Principal("corp", subject, frozenset(), issued_at, issued_at + 3600, token_id)


@pytest.mark.parametrize(
    ("what", "refused", "served"),
    [
        (RevokedToken("corp", "t"), principal(), principal(token_id="u")),
        (RevokedToken("partner", "t"), None, principal()),
        (RevokedSubject("corp", "olga", NOW), principal(), principal(issued_at=NOW + 1)),
        (RevokedSubject("corp", "olga", NOW), principal(issued_at=1), principal("olgA")),
        (RevokedBefore("corp", NOW), principal("anybody"), principal(issued_at=NOW + 0.5)),
        (RevokedBefore("partner", NOW), None, principal()),
    ],
)
def test_a_revocation_covers_what_it_names(
    what: What, refused: Principal | None, served: Principal
) -> None:
    orders = Orders([an_order("a", what)])
    assert refused is None or orders.revoke(refused)
    assert not orders.revoke(served)


def test_the_latest_instant_counts_whatever_the_order_they_came_in() -> None:
    three = [
        an_order("a", RevokedSubject("corp", "olga", 5.0)),
        an_order("b", RevokedSubject("corp", "olga", 9.0)),
        an_order("c", RevokedSubject("corp", "olga", 7.0)),
    ]
    for some in permutations(three):
        orders = Orders(some)
        assert orders.revoke(principal(issued_at=9.0))
        assert not orders.revoke(principal(issued_at=9.1))


def test_a_lifted_order_is_over_even_where_it_is_heard_of_later() -> None:
    lifted = an_order("b", Lifted("a"))
    orders = Orders([lifted]).with_more([an_order("a", RevokedToken("corp", "t"))], NOW)
    assert not orders.revoke(principal())
    assert orders.in_force == []


def test_orders_end_by_themselves() -> None:
    orders = Orders([an_order("a", RevokedToken("corp", "t"), until=NOW + 1)])
    assert orders.with_more((), NOW).revoke(principal())
    assert not orders.with_more((), NOW + 1).revoke(principal())


@pytest.mark.parametrize(
    ("what", "dropped", "kept"),
    [
        (DroppedLinks(), ("p", "s", "corp:olga"), None),
        (DroppedLinks(server="s"), ("p", "s", "x"), ("p", "other", "x")),
        (DroppedLinks(project="p", server="s"), ("p", "s", ""), ("q", "s", "")),
        (DroppedLinks(person="x"), ("p", "s", "x"), ("p", "s", "y")),
        # It may have been given to that person, too.
        (DroppedLinks(person="x"), ("p", "s", ""), ("p", "s", "y")),
    ],
)
def test_links_are_dropped_by_where_and_whose_they_are(
    what: DroppedLinks, dropped: tuple[str, str, str], kept: tuple[str, str, str] | None
) -> None:
    orders = Orders([an_order("a", what)])
    assert orders.dropping(*dropped) == ("a",)
    assert kept is None or orders.dropping(*kept) == ()


def test_of_two_ceilings_or_levels_the_later_counts() -> None:
    orders = Orders(
        [
            an_order("b", Ceiling("prod", "console", 5.0), at=2.0),
            an_order("a", Ceiling("prod", "console", 9.0), at=1.0),
            an_order("c", LogLevels({"gateway": "debug"}), at=3.0),
            an_order("d", LogLevels({"gateway": "error", "gateway.tls": "info"}), at=4.0),
        ]
    )
    assert orders.ceilings == {("prod", "console"): 5.0}
    assert orders.log_levels == {"gateway": "error", "gateway.tls": "info"}


def test_what_is_written_is_read_and_nothing_else() -> None:
    order = an_order("a", RevokedToken("corp", "t"))
    assert order_from_text(order_to_text(order)) == order
    for text in (b"", b"{}", b'{"id": "a"}', b'{"id":"a","at":0,"until":1,"what":{}}'):
        with pytest.raises(ValueError, match="is no order"):
            order_from_text(text)


def test_a_file_is_read_as_it_was_written_and_a_damaged_one_is_as_good_as_none() -> None:
    kept = KeptOrders(
        complete=True,
        orders=[
            an_order("a", RevokedToken("corp", "t")),
            an_order("b", LogLevels({"gateway": "debug"})),
        ],
    )
    text = kept_to_text(kept)
    assert kept_from_text(text) == kept
    for damaged in (None, b"", b"[]", text[:-1], text.replace(b'"complete":true,', b"")):
        assert kept_from_text(damaged) == NOTHING_KEPT


def test_what_two_kept_is_one_without_what_has_ended() -> None:
    over = an_order("over", RevokedToken("corp", "t"), until=NOW)
    a, b = an_order("a", RevokedToken("corp", "t")), an_order("b", RevokedToken("corp", "u"))
    one = KeptOrders(complete=True, orders=[over, a])
    assert one.with_more(KeptOrders(False, [a, b]), NOW) == KeptOrders(True, [a, b])
    assert NOTHING_KEPT.with_more(KeptOrders(False, [b]), NOW) == KeptOrders(False, [b])
