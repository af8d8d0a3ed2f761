"""The request for an agency's token, as the vendor documents it (upstream-api.md#3.5)."""

from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True, slots=True)
class AgencyLogin:
    domain: str
    name: str
    project: str


async def parse_agency_login(request: web.Request) -> AgencyLogin | None:
    """Parse the body; return None if it is not this request."""
    try:
        auth = (await request.json())["auth"]
        if auth["identity"]["methods"] != ["assume_role"]:
            return None
        assumed = auth["identity"]["assume_role"]
        texts = (assumed["domain_name"], assumed["xrole_name"], auth["scope"]["project"]["id"])
    except (ValueError, KeyError, TypeError):
        return None
    if not all(isinstance(text, str) and text for text in texts):
        return None
    return AgencyLogin(*texts)
