"""Reading of lists, mappings and names in the policy file; every error has its line and key."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from gateway.config.errors import ConfigError, KeyPath
from gateway.config.located_yaml import Document, hint
from gateway.config.policy_names import NAME_CHARS_MAX, is_plain_name, name_problem

_SHOWN_CHARS_MAX: Final = 80


class PolicyForm:
    """Reads values of a document and collects the errors in them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.errors: list[ConfigError] = []

    def names(
        self,
        path: KeyPath,
        raw: Any,
        *,
        chars_max: int = NAME_CHARS_MAX,
        is_pattern: bool = False,
    ) -> frozenset[str]:
        """Return a list of names; a name that nothing can have is an error."""
        names = self.items(path, raw)
        for i, name in enumerate(names):
            if not is_plain_name(name, chars_max):
                self.name((*path, i), name, chars_max=chars_max, is_pattern=is_pattern)
        return frozenset(name for name in names if isinstance(name, str))

    def name(
        self,
        path: KeyPath,
        raw: Any,
        *,
        chars_max: int = NAME_CHARS_MAX,
        is_pattern: bool = False,
    ) -> str:
        if not isinstance(raw, str) or not raw:
            self.error(path, "must be text (put it in quotes)")
            return ""
        if problem := name_problem(raw, chars_max=chars_max, is_pattern=is_pattern):
            self.error(path, problem)
        return raw

    def one_or_more_names(
        self, path: KeyPath, raw: Any, *, chars_max: int = NAME_CHARS_MAX
    ) -> frozenset[str]:
        """Return a name, or a list of names that is not empty."""
        if not isinstance(raw, list):
            return frozenset({self.name(path, raw, chars_max=chars_max)})
        if not raw:
            self.error(path, "must be a text or a list of texts")
        return self.names(path, raw, chars_max=chars_max)

    def known_names(
        self, path: KeyPath, raw: Any, known: Collection[str], what: str
    ) -> frozenset[str]:
        """Return a list of names of the config; `what` describes them in an error."""
        names = self.names(path, raw)
        for i, name in text_items(raw):
            if name not in known:
                self.error((*path, i), self.unknown(what, name, known))
        return names

    def items(self, path: KeyPath, raw: Any) -> Sequence[Any]:
        if isinstance(raw, list):
            return raw
        self.error(path, "must be a list")
        return []

    def mapping(self, path: KeyPath, raw: Any, keys: Sequence[str] | None) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self.error(path, "must be a mapping")
            return {}
        for key in raw:
            if keys is not None and key not in keys:
                self.error((*path, key), self.unknown("key", key, keys))
        return raw

    def require_true(self, path: KeyPath, raw: Any) -> None:
        """Report a value other than `true` of a key that only switches something on."""
        if raw is not True:
            self.error(path, "must be `true`; omit the key otherwise")

    def unknown(self, what: str, name: object, known: Collection[str]) -> str:
        return f"unknown {what} {str(name)[:_SHOWN_CHARS_MAX]!r}; {hint(name, known)}"

    def error(self, path: KeyPath, message: str) -> None:
        self.errors.append(self.document.error(path, message))


def text_items(raw: Any) -> Iterator[tuple[int, str]]:
    for i, item in enumerate(raw if isinstance(raw, list) else ()):
        if isinstance(item, str):
            yield i, item
