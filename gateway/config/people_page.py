"""Config section `page`: what people see of their servers over all accounts."""

from gateway.config.values import Section


class PeoplePageSettings(Section):
    """The page and the list of a person's servers over all accounts."""

    enabled: bool = False
    """Serve `GET /servers`, and let `gateway console` find servers by name over all projects. If an
    issuer has `login`, serve the page of a person's servers at `listen.public_url`. All accounts
    are then listed every `accounts[].inventory.poll_s`, from spare budget."""
