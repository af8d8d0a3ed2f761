"""Sets of overrides: which tokens and links they cover, in any sequence of arrival."""

from itertools import permutations

import pytest

from gateway.domain.model import Principal
from gateway.domain.overrides import (
    EMPTY_SNAPSHOT,
    UNTIL_LIFTED,
    ClearedOverride,
    DroppedLinks,
    Effect,
    Lock,
    LogLevels,
    Override,
    OverrideSet,
    OverrideSnapshot,
    RateCeiling,
    RevokedBefore,
    RevokedSubject,
    RevokedToken,
    decode_override,
    decode_snapshot,
    encode_override,
    encode_snapshot,
    expiries,
)

NOW = 1_000.0


def an_override(
    name: str, effect: Effect, *, created_at: float = NOW, expires_at: float = NOW + 600
) -> Override:
    return Override(name, created_at, expires_at, "corp:ada", "", effect)


def principal(subject: str = "olga", *, issued_at: float = NOW, token_id: str = "t") -> Principal:
    return Principal("corp", subject, frozenset(), issued_at, issued_at + 3600, token_id)


@pytest.mark.parametrize(
    ("effect", "revoked", "accepted"),
    [
        (RevokedToken("corp", "t"), principal(), principal(token_id="u")),
        (RevokedToken("partner", "t"), None, principal()),
        (RevokedSubject("corp", "olga", NOW), principal(), principal(issued_at=NOW + 1)),
        (RevokedSubject("corp", "olga", NOW), principal(issued_at=1), principal("olgA")),
        (RevokedBefore("corp", NOW), principal("anybody"), principal(issued_at=NOW + 0.5)),
        (RevokedBefore("partner", NOW), None, principal()),
    ],
)
def test_revocation_covers_only_matching_tokens(
    effect: Effect, revoked: Principal | None, accepted: Principal
) -> None:
    overrides = OverrideSet([an_override("a", effect)])
    assert revoked is None or overrides.is_revoked(revoked)
    assert not overrides.is_revoked(accepted)


def test_latest_revocation_time_applies_in_any_sequence() -> None:
    three = [
        an_override("a", RevokedSubject("corp", "olga", 5.0)),
        an_override("b", RevokedSubject("corp", "olga", 9.0)),
        an_override("c", RevokedSubject("corp", "olga", 7.0)),
    ]
    for some in permutations(three):
        overrides = OverrideSet(some)
        assert overrides.is_revoked(principal(issued_at=9.0))
        assert not overrides.is_revoked(principal(issued_at=9.1))


def test_clear_applies_to_an_override_that_arrives_later() -> None:
    cleared = an_override("b", ClearedOverride("a"))
    overrides = OverrideSet([cleared]).merge([an_override("a", RevokedToken("corp", "t"))], NOW)
    assert not overrides.is_revoked(principal())
    assert overrides.in_force == []


def test_override_expires() -> None:
    overrides = OverrideSet([an_override("a", RevokedToken("corp", "t"), expires_at=NOW + 1)])
    assert overrides.merge((), NOW).is_revoked(principal())
    assert not overrides.merge((), NOW + 1).is_revoked(principal())


@pytest.mark.parametrize(
    ("effect", "dropped", "snapshot"),
    [
        (DroppedLinks(), ("p", "s", "corp:olga"), None),
        (DroppedLinks(server="s"), ("p", "s", "x"), ("p", "other", "x")),
        (DroppedLinks(project="p", server="s"), ("p", "s", ""), ("q", "s", "")),
        (DroppedLinks(person="x"), ("p", "s", "x"), ("p", "s", "y")),
        # A shared link may have been issued to that person.
        (DroppedLinks(person="x"), ("p", "s", ""), ("p", "s", "y")),
    ],
)
def test_links_are_dropped_by_project_server_and_person(
    effect: DroppedLinks, dropped: tuple[str, str, str], snapshot: tuple[str, str, str] | None
) -> None:
    overrides = OverrideSet([an_override("a", effect)])
    assert overrides.dropped_by(*dropped) == ("a",)
    assert snapshot is None or overrides.dropped_by(*snapshot) == ()


def test_later_ceiling_or_level_applies() -> None:
    overrides = OverrideSet(
        [
            an_override("b", RateCeiling("prod", "console", 5.0), created_at=2.0),
            an_override("a", RateCeiling("prod", "console", 9.0), created_at=1.0),
            an_override("c", LogLevels({"gateway": "debug"}), created_at=3.0),
            an_override(
                "d", LogLevels({"gateway": "error", "gateway.tls": "info"}), created_at=4.0
            ),
        ]
    )
    assert overrides.rate_ceilings == {("prod", "console"): 5.0}
    assert overrides.log_levels == {"gateway": "error", "gateway.tls": "info"}


def test_override_decodes_only_its_own_encoding() -> None:
    override = an_override("a", RevokedToken("corp", "t"))
    assert decode_override(encode_override(override)) == override
    for text in (b"", b"{}", b'{"id": "a"}', b'{"id":"a","at":0,"until":1,"effect":{}}'):
        with pytest.raises(ValueError, match="is not an override"):
            decode_override(text)


def test_damaged_snapshot_is_empty() -> None:
    snapshot = OverrideSnapshot(
        complete=True,
        overrides=[
            an_override("a", RevokedToken("corp", "t")),
            an_override("b", LogLevels({"gateway": "debug"})),
        ],
    )
    text = encode_snapshot(snapshot)
    assert decode_snapshot(text) == snapshot
    for damaged in (None, b"", b"[]", text[:-1], text.replace(b'"complete":true,', b"")):
        assert decode_snapshot(damaged) == EMPTY_SNAPSHOT


def test_cleared_override_ends_before_its_clearing() -> None:
    """Otherwise a lock without end would be in force again when its lifting is forgotten."""
    lock = an_override("a", Lock(subject="olga"), expires_at=UNTIL_LIFTED)
    lifted = an_override("b", ClearedOverride("a"), expires_at=NOW + 600)
    again = an_override("c", ClearedOverride("a"), expires_at=NOW + 900)
    for some in permutations([lock, lifted, again]):
        assert expiries(some) == {"a": NOW + 600, "b": NOW + 600, "c": NOW + 900}
    snapshot = OverrideSnapshot(complete=True, overrides=[lifted, lock])
    for now, left in ((NOW + 299, ["b", "a"]), (NOW + 300, ["b"]), (NOW + 9e9, [])):
        merged = OverrideSet().merge([lifted, lock], now)
        assert [one.id for one in merged] == left
        assert merged.find_lock(principal()) is None
        assert [one.id for one in EMPTY_SNAPSHOT.merge(snapshot, now).overrides] == left
    assert OverrideSet([lifted, lock]).next_expiry == NOW + 300
    assert OverrideSet([lock]).next_expiry == UNTIL_LIFTED


def test_count_of_locks_includes_lifted_ones() -> None:
    overrides = [
        an_override("a", Lock(subject="olga")),
        an_override("b", ClearedOverride("a")),
        an_override("c", Lock(group="ops")),
        an_override("d", RevokedToken("corp", "t")),
        an_override("e", ClearedOverride("d")),
    ]
    assert (OverrideSet(overrides).lock_count, len(OverrideSet(overrides))) == (3, 5)


def test_merged_snapshot_has_no_expired_overrides() -> None:
    over = an_override("over", RevokedToken("corp", "t"), expires_at=NOW)
    a, b = an_override("a", RevokedToken("corp", "t")), an_override("b", RevokedToken("corp", "u"))
    one = OverrideSnapshot(complete=True, overrides=[over, a])
    assert one.merge(OverrideSnapshot(False, [a, b]), NOW) == OverrideSnapshot(True, [a, b])
    assert EMPTY_SNAPSHOT.merge(OverrideSnapshot(False, [b]), NOW) == OverrideSnapshot(False, [b])
