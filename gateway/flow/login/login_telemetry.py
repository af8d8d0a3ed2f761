"""Port of the metrics and the log of browser logins."""

from typing import Protocol


class LoginTelemetry(Protocol):
    """Label values come from the config, or from a table of the code. No text has a secret."""

    def logged_in(self, issuer: str) -> None: ...
    def login_failed(self, issuer: str, problem: str, error: str) -> None:
        """`problem` is the name of a LoginProblem, `error` is for operators."""

    def refresh_failed(self, issuer: str, error: str) -> None:
        """Report that the provider did not answer; the session goes on for a while."""

    def provider_logout_failed(self, issuer: str, error: str) -> None:
        """Report that a refresh token may outlive the session: it was not revoked."""

    def logout_token_rejected(self, issuer: str, error: str) -> None: ...
    def logout_token_lost(self, error: str) -> None:
        """Report that a logout by the provider had no effect."""

    def session_ended(self, by: str) -> None:
        """`by`: person, provider, operator, refresh, replaced, idle, absolute, or a rejection's."""
