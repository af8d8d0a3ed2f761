"""Config section `contact`: a text and an address that pages may link to."""

import pytest
from pydantic import ValidationError

from gateway.config.contact import ContactSettings


@pytest.mark.parametrize(
    "url", ["https://chat.example.com/c/console?x=1#top", "mailto:console-ops@example.com"]
)
def test_contact_takes_https_and_mail(url: str) -> None:
    contact = ContactSettings(text=" Platform on-call ", url=url)
    assert contact.model_dump() == {"text": "Platform on-call", "url": url}


@pytest.mark.parametrize(
    "url",
    [
        "http://chat.example.com/",
        "javascript:alert(1)",
        "https://",
        "https://chat.example.com/>; rel=evil",
        'https://chat.example.com/"x',
        "https://chat.example.com/a b",
        "https://chat.example.com/\r\nX: y",
        "mailto:nobody",
        "https://chat.example.com/" + "x" * 500,
    ],
)
def test_contact_refuses_other_addresses(url: str) -> None:
    with pytest.raises(ValidationError):
        ContactSettings(text="Platform on-call", url=url)


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "\u202edesrever", "x" * 201])
def test_contact_is_one_line_of_text(text: str) -> None:
    with pytest.raises(ValidationError):
        ContactSettings(text=text, url="https://chat.example.com/")
