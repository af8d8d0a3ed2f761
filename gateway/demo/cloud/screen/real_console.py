"""A server's console that another program serves, such as websockify with a TigerVNC server."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RealConsole:
    base: str
    """Scheme, host and port of its console links."""
    token_file: str
    """File of websockify's plugin TokenFile: a line `token: host:port` opens the target."""
    target: str
    """Host and port of the VNC server."""

    def admit(self, token: str) -> None:
        with Path(self.token_file).open("a") as file:
            file.write(f"{token}: {self.target}\n")
