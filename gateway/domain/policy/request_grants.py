"""The grants that approved access requests are, beside the grants of the policy file. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.model import Principal
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rule_index import RuleIndex, compile_rules
from gateway.domain.policy.rules import Rule

_PEOPLE_CACHED_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class RequestGrant:
    grant: Rule
    """Names one user and issuer."""
    rule: RequestRule
    """The rule in force that allows it: only while the person may make requests by it."""


class RequestGrants:
    """Grants by person. Immutable."""

    def __init__(self, grants: Iterable[RequestGrant] = ()) -> None:
        self._by_person: dict[tuple[str | None, str], list[RequestGrant]] = {}
        instants = set[float]()
        rules = list[Rule]()
        for one in grants:
            (subject,) = one.grant.users
            self._by_person.setdefault((one.grant.issuer, subject), []).append(one)
            instants.update((one.grant.valid_from, one.grant.valid_until))
            rules.append(one.grant)
        self.instants: Sequence[float] = sorted(instants)
        """Instants at which a grant begins or ends, in seconds since the epoch."""
        self.rules: Sequence[Rule] = rules
        self._indexes: OrderedDict[tuple[str, str, frozenset[str]], RuleIndex | None] = (
            OrderedDict()
        )

    def __bool__(self) -> bool:
        return bool(self.rules)

    def of(self, principal: Principal) -> RuleIndex | None:
        """Return the grants of one person; None if there are none."""
        grants = self._by_person.get((principal.issuer, principal.subject))
        if grants is None:
            return None
        key = (principal.issuer, principal.subject, principal.groups)
        if key not in self._indexes:
            rules = [one.grant for one in grants if one.rule.is_for(principal)]
            self._indexes[key] = RuleIndex(compile_rules(rules)) if rules else None
            if len(self._indexes) > _PEOPLE_CACHED_MAX:
                self._indexes.popitem(last=False)
        return self._indexes[key]


NO_GRANTS: Final = RequestGrants()
