"""VNC Authentication (RFC 6143, 7.2.2): DES of a challenge with the password as the key."""

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

CHALLENGE_BYTES = 16


def respond(challenge: bytes, password: str) -> bytes:
    """Return the response that proves the password, of which the first eight bytes count."""
    key = password.encode("latin-1", "replace")[:8].ljust(8, b"\0")
    # VNC takes the bits of each byte in reverse order. Three equal keys make Triple DES plain DES.
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    encryptor = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()  # noqa: S305 - see RFC
    return encryptor.update(challenge) + encryptor.finalize()
