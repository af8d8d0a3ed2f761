"""The text of a ticket: what is garbage, and what is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.consoles.ticket_text import TicketTexts, is_local_ticket, secret_hash

OLD, NEW = b"a" * 32, b"b" * 32
RANDOM = bytes(range(32))


def test_ticket_verifies_to_the_hash_of_its_text() -> None:
    texts = TicketTexts([NEW])
    text = texts.make(RANDOM).reveal()
    assert texts.verify(text) == secret_hash(text)
    assert RANDOM not in secret_hash(text)


def test_ticket_of_one_process_is_known_as_such_by_all() -> None:
    local = TicketTexts([OLD]).make(RANDOM, is_local=True).reveal()
    shared = TicketTexts([OLD]).make(RANDOM).reveal()
    texts = TicketTexts([NEW, OLD])
    found = {text: texts.verify(text) for text in (local, shared)}
    assert [is_local_ticket(one or b"") for one in found.values()] == [True, False]
    assert local[:40] == shared[:40], "only the keyed hash differs"
    assert TicketTexts([NEW]).verify(local) is None


def test_every_key_verifies_and_the_first_makes() -> None:
    made = TicketTexts([OLD]).make(RANDOM).reveal()
    assert TicketTexts([NEW, OLD]).verify(made)
    assert TicketTexts([NEW]).verify(made) is None
    assert TicketTexts([NEW, OLD]).make(RANDOM) == TicketTexts([NEW]).make(RANDOM)


@pytest.mark.parametrize("text", ["", "x" * 54, "x" * 53, "é" * 54, "\ud800" * 54, "=" * 54])
def test_garbage_does_not_verify(text: str) -> None:
    assert TicketTexts([NEW]).verify(text) is None


@given(st.integers(0, 53), st.sampled_from("AZaz09-_=+/ \n"))
def test_ticket_with_another_character_does_not_verify(at: int, character: str) -> None:
    text = TicketTexts([NEW]).make(RANDOM).reveal()
    changed = text[:at] + character + text[at + 1 :]
    assert (TicketTexts([NEW]).verify(changed) is None) == (changed != text)
