"""Settings of the public listener -> the edge's view of them."""

from collections.abc import Iterable

from gateway.config.listen import CorsSettings, PublicListen
from gateway.config.values import UNIX_PROXIES
from gateway.domain.model import Operation
from gateway.edge.listener.client_address import TrustedProxies, canonical_network
from gateway.edge.public.cors import Cors


def trusted_proxies(listen: PublicListen) -> TrustedProxies:
    networks = (one for one in listen.trusted_proxies if not isinstance(one, str))
    return TrustedProxies(
        tuple(map(canonical_network, networks)),
        has_unix_peers=UNIX_PROXIES in listen.trusted_proxies,
    )


def open_cors(settings: CorsSettings | None, operations: Iterable[Operation]) -> Cors | None:
    if settings is None:
        return None
    methods = {"HEAD", *(operation.method for operation in operations)}
    return Cors(settings.origins, methods, max_age_s=settings.max_age_s)
