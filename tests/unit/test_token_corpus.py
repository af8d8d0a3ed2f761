"""Attacks on JWT verifiers, each one against the whole line: parser, keys, signature, claims.

Sources: advisories of PyJWT, Authlib, APISIX and oauth2-proxy (field survey, 6), RFC 8725,
and the classics. The good token passes; each attack is a small step away from it.
"""

import base64
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.issuers import Issuer
from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.claims import CALLER_JWT_CHARS_MAX, TokenRules
from gateway.domain.model import Principal, Secret
from gateway.drivers.host.handover import Handover
from gateway.drivers.issuers.issuer_keys import IssuerKeys
from gateway.drivers.issuers.signatures import _JSON_STRING, JwtSignatures, TrustedIssuer, _depth
from gateway.flow.identify import Identify
from tests.support.clock import FakeClock
from tests.support.stages import cached_principal
from tests.support.telemetry import RecordingTelemetry
from tests.support.tokens import Signer, b64, ec_signer, raw_token, rsa_signer

ISS = "https://idp.example/realms/corp"
SHARED = "urn:shared"
NOW = FakeClock().now()
HONEST = rsa_signer("k1")
HONEST_EC = ec_signer("e1")
MALLORY = rsa_signer("k1", which="mallory")
SECRET = Signer("HS256", b"a shared secret of 32 bytes long", None)
CLAIMS: dict[str, Any] = {
    "iss": ISS, "aud": "gw", "sub": "ann", "iat": NOW, "exp": NOW + 600, "groups": ["ops"],
}  # fmt: skip
HEADER = {"alg": "RS256", "kid": "k1"}
CANARY = "canary"


class NoNetwork:
    """Replaces the HTTP client; any fetch fails the test."""

    def get(self, address: str, **_: object) -> NoReturn:
        raise AssertionError(f"fetched {address}")


def _issuer(name: str, iss: str, source: dict[str, Any], algorithms: list[str]) -> Issuer:
    return Issuer.model_validate(
        {"name": name, "issuer": iss, "audience": ["gw"], "keys": source, "algorithms": algorithms}
    )


def _line(issuers: list[Issuer], clock: FakeClock) -> tuple[Identify, list[IssuerKeys]]:
    telemetry = RecordingTelemetry()
    keys = [
        IssuerKeys(
            issuer,
            http=NoNetwork(),
            clock=clock,
            telemetry=telemetry,
            on_rotation=lambda _: None,
            jitter=Random(1),
            handover=Handover(),
        )
        for issuer in issuers
    ]
    signatures = JwtSignatures(
        TrustedIssuer(issuer.name, issuer.issuer, frozenset(issuer.algorithms), issuer_keys)
        for issuer, issuer_keys in zip(issuers, keys, strict=True)
    )
    rules = {
        issuer.name: TokenRules(
            issuer.name, issuer.issuer, frozenset({"gw"}), 30.0, 3_600.0, None, "sub", "groups"
        )
        for issuer in issuers
    }
    line = Identify(
        revoked=lambda _: False,
        find_lock=lambda _: None,
        groups_required=lambda _: False,
        groups_missing=lambda _: None,
        signatures=signatures,
        rules=rules,
        clock=clock,
        telemetry=telemetry,
        tokens_max=10,
    )
    return line, keys


@pytest.fixture
async def line(clock: FakeClock, tmp_path: Path) -> Identify:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [HONEST.jwk(alg=None), HONEST_EC.jwk()]}))
    identify, keys = _line(
        [
            _issuer("corp", ISS, {"public_key_file": file}, ["RS256", "PS256", "ES256"]),
            _issuer("shared", SHARED, {"secret": Secret(SECRET.key.decode())}, ["HS256"]),
        ],
        clock,
    )
    for issuer_keys in keys:
        await issuer_keys.refresh()
        issuer_keys._next_request_at = float(
            "inf"
        )  # no refresh runs here for an unknown kid to wait for
    return identify


async def rejection(line: Identify, token: str) -> Rejection:
    with pytest.raises(NotAuthenticated) as caught:
        await line.identify(Secret(token))
    assert CANARY not in str(caught.value)
    assert cached_principal(line, token) is None
    return caught.value.reason


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


def signed(header: bytes | dict[str, Any] = HEADER, claims: bytes | dict[str, Any] = CLAIMS) -> str:
    """Sign with the honest key; RS256 whatever the header says."""
    return raw_token(
        header if isinstance(header, bytes) else dumps(header),
        claims if isinstance(claims, bytes) else dumps(claims),
        HONEST.sign,
    )


async def test_valid_tokens_pass(line: Identify) -> None:
    for token in (
        signed(),
        HONEST_EC.token(CLAIMS),
        rsa_signer("k1", algorithm="PS256").token(CLAIMS),
        SECRET.token({**CLAIMS, "iss": SHARED}),
    ):
        assert (await line.identify(Secret(token))).subject == "ann"


# --- algorithm ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alg",
    [
        "none", "None", "NONE", "nOnE", "none ", " none", "none\x00", "", None, 0, False, [], {},
        ["RS256"], ["none", "RS256"], "rs256", "RS256 ", "RS257", "RS512", "HS256", "HS512",
        "ES384", "ES256K", "EdDSA", "RSA-OAEP", CANARY,
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("signature", ["honest", "empty", "one byte"])
async def test_algorithm_must_be_allowed_for_the_issuer(
    line: Identify, alg: object, signature: str
) -> None:
    head, claims, honest = signed({**HEADER, "alg": alg}).split(".")
    last = {"honest": honest, "empty": "", "one byte": "AA"}[signature]

    assert await rejection(line, f"{head}.{claims}.{last}") is Rejection.ALGORITHM


async def test_missing_alg_is_rejected(line: Identify) -> None:
    assert await rejection(line, signed({"kid": "k1"})) is Rejection.ALGORITHM


def _public_forms() -> dict[str, bytes]:
    public = HONEST.key.public_key()
    pem = HONEST.pem()
    jwk = HONEST.jwk(alg=None)
    return {
        "pem": pem,
        "pem stripped": pem.strip(),
        "pem crlf": pem.replace(b"\n", b"\r\n"),
        "pem bom": b"\xef\xbb\xbf" + pem,
        "pem body": b"".join(pem.splitlines()[1:-1]),
        "pkcs1 pem": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "pkcs1 der": public.public_bytes(Encoding.DER, PublicFormat.PKCS1),
        "ssh": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "jwk": dumps(jwk),
        "jwk compact": json.dumps(jwk, separators=(",", ":")).encode(),
        "jwks": dumps({"keys": [jwk]}),
        "modulus": base64.urlsafe_b64decode(jwk["n"] + "=="),
        "modulus text": jwk["n"].encode(),
        "empty": b"",
    }


@pytest.mark.parametrize("form", _public_forms())
@pytest.mark.parametrize("iss", [ISS, SHARED])
async def test_public_key_is_not_an_hmac_secret(line: Identify, form: str, iss: str) -> None:
    secret = _public_forms()[form]
    token = raw_token(
        dumps({"alg": "HS256", "kid": "k1"}),
        dumps({**CLAIMS, "iss": iss}),
        lambda text: hmac.digest(secret, text, "sha256"),
    )

    expected = Rejection.ALGORITHM if iss == ISS else Rejection.SIGNATURE
    assert await rejection(line, token) is expected


async def test_issuer_never_mixes_symmetric_and_asymmetric(line: Identify) -> None:
    assert await rejection(line, signed(claims={**CLAIMS, "iss": SHARED})) is Rejection.ALGORITHM
    assert await rejection(line, SECRET.token(CLAIMS)) is Rejection.ALGORITHM


@pytest.mark.parametrize(("alg", "reason"), [
    ("PS256", Rejection.SIGNATURE),
    ("ES256", Rejection.ALGORITHM),
])  # fmt: skip
async def test_signature_is_bound_to_its_algorithm(
    line: Identify, alg: str, reason: Rejection
) -> None:
    assert await rejection(line, signed({"alg": alg, "kid": "k1"})) is reason


# --- keys that the token brings along -----------------------------------------------------------


@pytest.mark.parametrize(
    "bait",
    [
        {"jwk": MALLORY.jwk()},
        {"jku": f"https://{CANARY}.example/jwks"},
        {"x5u": f"https://{CANARY}.example/chain.pem"},
        {"x5c": [b64(MALLORY.pem())]},
        {"x5t": "AAAA", "x5t#S256": "AAAA"},
        {"kid": f"https://{CANARY}.example/jwks"},
    ],
    ids=lambda bait: next(iter(bait)),
)
async def test_embedded_key_is_ignored(line: Identify, bait: dict[str, Any]) -> None:
    forged = raw_token(dumps({**HEADER, **bait}), dumps(CLAIMS), MALLORY.sign)

    assert await rejection(line, forged) in {Rejection.SIGNATURE, Rejection.KEY_UNKNOWN}
    if "kid" not in bait:
        assert (await line.identify(Secret(signed({**HEADER, **bait})))).subject == "ann"


@pytest.mark.parametrize(
    "kid",
    [
        "../../etc/passwd", "/dev/null", "' OR 1=1 --", "k1\x00", "k1 ", "K1", "k", "k11", "",
        "k1/../k1", "$(id)", "{{7*7}}", "\udcff", CANARY * 40, "k" * 256,
    ],
    ids=ascii,
)  # fmt: skip
async def test_hostile_kid_is_unknown(line: Identify, kid: str) -> None:
    assert await rejection(line, signed({**HEADER, "kid": kid})) is Rejection.KEY_UNKNOWN


@pytest.mark.parametrize("kid", [None, 7, 0, True, [], ["k1"], {"k1": 1}, "k" * 257], ids=ascii)
async def test_malformed_kid_is_rejected(line: Identify, kid: object) -> None:
    assert await rejection(line, signed({**HEADER, "kid": kid})) is Rejection.MALFORMED


async def test_key_of_another_issuer_is_rejected(line: Identify) -> None:
    of_shared = SECRET.token({**CLAIMS, "iss": ISS}, alg="RS256", kid="k1")

    assert await rejection(line, of_shared) is Rejection.SIGNATURE
    assert await rejection(line, MALLORY.token(CLAIMS)) is Rejection.SIGNATURE


# --- extensions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [CANARY], [], None, "exp", {}, 0], ids=repr)
async def test_crit_is_rejected(line: Identify, crit: object) -> None:
    header = {**HEADER, "crit": crit, "exp": NOW + 600, CANARY: 1}

    assert await rejection(line, signed(header)) is Rejection.CRITICAL_HEADER


@pytest.mark.parametrize("b64_", [False, True, None, "false"])
async def test_unencoded_payload_is_rejected(line: Identify, b64_: object) -> None:
    header = {**HEADER, "b64": b64_, "crit": ["b64"]}

    assert await rejection(line, signed(header)) is Rejection.MALFORMED


# --- the shape of the token ---------------------------------------------------------------------


def _malformed() -> dict[str, Callable[[str, str, str], str]]:
    return {
        "nothing": lambda h, c, s: "",
        "blank": lambda h, c, s: " ",
        "dots": lambda h, c, s: "..",
        "one part": lambda h, c, s: h,
        "two parts": lambda h, c, s: f"{h}.{c}",
        "four parts": lambda h, c, s: f"{h}.{c}.{s}.",
        "four parts, first empty": lambda h, c, s: f".{h}.{c}.{s}",
        "five parts (JWE)": lambda h, c, s: f"{h}.{c}.{s}.{c}.{s}",
        "no header": lambda h, c, s: f".{c}.{s}",
        "no claims": lambda h, c, s: f"{h}..{s}",
        "header twice": lambda h, c, s: f"{h}{h}.{c}.{s}",
        "blank before": lambda h, c, s: f" {h}.{c}.{s}",
        "blank after": lambda h, c, s: f"{h}.{c}.{s} ",
        "line end after": lambda h, c, s: f"{h}.{c}.{s}\n",
        "line end within": lambda h, c, s: f"{h}.{c[:8]}\r\n{c[8:]}.{s}",
        "tab within": lambda h, c, s: f"{h}\t.{c}.{s}",
        "blank within signature": lambda h, c, s: f"{h}.{c}.{s[:8]} {s[8:]}",
        "NUL after": lambda h, c, s: f"{h}.{c}.{s}\x00",
        "padded header": lambda h, c, s: f"{h}=.{c}.{s}",
        "padded claims": lambda h, c, s: f"{h}.{c}==.{s}",
        "padded signature": lambda h, c, s: f"{h}.{c}.{s}==",
        "junk in signature": lambda h, c, s: f"{h}.{c}.{s}!!!!",
        "plus": lambda h, c, s: f"{h}.{c}.+{s[1:]}",
        "slash": lambda h, c, s: f"{h}.{c}./{s[1:]}",
        "stray bits": lambda h, c, s: f"{h}.{c}.{s[:-1]}{_sibling(s[-1])}",
        "odd length": lambda h, c, s: f"{h}.{c}.{s}AAA",
        "full-width dot": lambda h, c, s: f"{h}\uff0e{c}.{s}",
        "letters of another script": lambda h, c, s: f"{h}.{c}.{s[:-4]}\u0410\u0410\u0410\u0410",
        "a surrogate": lambda h, c, s: f"{h}.{c}.{s}\udcff",
        "JSON serialisation": lambda h, c, s: json.dumps(
            {"protected": h, "payload": c, "signature": s}
        ),
        "Bearer before": lambda h, c, s: f"Bearer {h}.{c}.{s}",
        "two tokens": lambda h, c, s: f"{h}.{c}.{s},{h}.{c}.{s}",
    }


def _sibling(letter: str) -> str:
    """Another last letter that decodes to the same bytes: 256 bytes leave four bits over."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(letter) ^ 1]


@pytest.mark.parametrize("name", _malformed())
async def test_malformed_token_is_never_repaired(line: Identify, name: str) -> None:
    malformed = _malformed()[name](*signed().split("."))

    assert await rejection(line, malformed) is Rejection.MALFORMED


async def test_changed_character_is_rejected(line: Identify) -> None:
    token = signed()
    for at in range(len(token)):
        other = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(NotAuthenticated):
            await line.identify(Secret(other))


async def test_truncated_token_is_rejected(line: Identify) -> None:
    token = signed()
    for length in range(len(token)):
        with pytest.raises(NotAuthenticated):
            await line.identify(Secret(token[:length]))


async def test_too_long_token_is_rejected(line: Identify) -> None:
    room = CALLER_JWT_CHARS_MAX - len(signed())
    fits = signed(claims={**CLAIMS, "pad": "x" * (room * 3 // 4 - 20)})
    over = signed(claims={**CLAIMS, "pad": "x" * room})

    assert (await line.identify(Secret(fits))).subject == "ann"
    assert await rejection(line, over) is Rejection.TOO_LARGE
    assert await rejection(line, CANARY * 1_000_000) is Rejection.TOO_LARGE


# --- the signature itself -----------------------------------------------------------------------


async def test_degenerate_curve_signature_is_rejected(line: Identify) -> None:
    def asn1(text: bytes) -> bytes:
        raw = HONEST_EC.sign(text)
        return encode_dss_signature(
            int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        )

    forgeries: list[Callable[[bytes], bytes]] = [
        lambda _: bytes(64),  # CVE-2022-21449
        lambda _: b"\xff" * 64,
        lambda _: bytes(63) + b"\x01",
        lambda _: b"",
        asn1,
        lambda text: HONEST_EC.sign(text) + b"\x00",
        lambda text: b"\x00" + HONEST_EC.sign(text),
        lambda text: HONEST_EC.sign(text)[:-1],
    ]
    for forge in forgeries:
        token = raw_token(dumps({"alg": "ES256", "kid": "e1"}), dumps(CLAIMS), forge)
        assert await rejection(line, token) is Rejection.SIGNATURE


async def test_rsa_signature_of_wrong_size_is_rejected(line: Identify) -> None:
    for signature in (b"", b"\x00", bytes(256), b"\x01" * 256, bytes(257), b"\xff" * 4_096):
        token = raw_token(dumps(HEADER), dumps(CLAIMS), lambda _, s=signature: s)
        assert await rejection(line, token) is Rejection.SIGNATURE


# --- JSON that is read two ways -----------------------------------------------------------------

PLAIN = dumps(CLAIMS)[1:-1]


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"RS256","alg":"none","kid":"k1"}',
        b'{"alg":"none","alg":"RS256","kid":"k1"}',
        b'{"alg":"RS256","kid":"k2","kid":"k1"}',
        b'{"alg":"RS256","\\u0061lg":"RS256","kid":"k1"}',
        b'{"alg":"RS256","kid":"k1","x":{"a":1,"a":2}}',
        b'{"alg":"RS256","kid":"k1"}{}',
        b'{"alg":"RS256","kid":"k1"} x',
        b'{"alg":"RS256","kid":"k1",}',
        b"{'alg':'RS256','kid':'k1'}",
        b'\xef\xbb\xbf{"alg":"RS256","kid":"k1"}',
        '{"alg":"RS256","kid":"k1"}'.encode("utf-16"),
        '{"alg":"RS256","kid":"k1"}'.encode("utf-32-le"),
        b'{"alg":"RS256","kid":"k1","x":"\xff"}',
        b'{"alg":"RS256","kid":"k1","x":"\xc0\xaf"}',
        b'{"alg":"RS256","kid":"k1","x":"\x00"}',
        b'{"alg":"RS256","kid":"k1","x":NaN}',
        b'{"alg":"RS256","kid":"k1"/**/}',
        b'[{"alg":"RS256","kid":"k1"}]',
        b'"RS256"',
        b"null",
        b"7",
        b"",
        b"\x00",
    ],
)
async def test_header_must_be_one_strict_object(line: Identify, header: bytes) -> None:
    assert await rejection(line, signed(header)) is Rejection.MALFORMED


@pytest.mark.parametrize(
    "claims",
    [
        b"{" + PLAIN + b',"sub":"root"}',
        b'{"sub":"root",' + PLAIN + b"}",
        b'{"\\u0073ub":"root",' + PLAIN + b"}",
        b"{" + PLAIN + b',"iss":"https://evil.example"}',
        b"{" + PLAIN + b',"x":NaN}',
        b"{" + PLAIN + b',"x":Infinity}',
        b"{" + PLAIN + b',"x":-Infinity}',
        b"{" + PLAIN + b',"x":' + b"9" * 5_000 + b"}",
        b"{" + PLAIN + b',"x":01}',
        b"{" + PLAIN + b',"x":"\xed\xa0\x80"}',
        b"{" + PLAIN + b"}\x00",
        b"[" + dumps(CLAIMS) + b"]",
        dumps(json.dumps(CLAIMS)),
        b"true",
        b"",
    ],
    ids=lambda claims: claims[-20:].decode("latin-1"),
)
async def test_claims_must_be_one_strict_object(line: Identify, claims: bytes) -> None:
    assert await rejection(line, signed(claims=claims)) is Rejection.MALFORMED


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'["]",'], ids=repr)
@pytest.mark.parametrize("depth", [40, 500, 1_100])
@pytest.mark.parametrize("end", ["closed", "open"])
async def test_deep_nesting_is_rejected_before_parsing(
    line: Identify, opening: bytes, depth: int, end: str
) -> None:
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]", b'["]",': b"]"}[opening]
    nest = opening * depth + b"1" + (closing * depth if end == "closed" else b"")

    assert await rejection(line, signed(claims=b'{"x":' + nest + b"}")) is Rejection.MALFORMED
    assert await rejection(line, signed(b'{"x":' + nest + b"}")) is Rejection.MALFORMED


async def test_brackets_in_strings_do_not_count_as_nesting(line: Identify) -> None:
    claims = {**CLAIMS, "x": '[{"\\' * 300, "y": [{"a": []}] * 100}

    assert (await line.identify(Secret(signed(claims=claims)))).subject == "ann"


@pytest.mark.parametrize("flood", [b'"', b'"\\', b'\\"', b'[""', b'"["', b"\\", b'{"'], ids=repr)
async def test_hostile_quotes_take_bounded_time(line: Identify, flood: bytes) -> None:
    claims = b'{"x":' + b"[" * 40 + flood * (11_000 // len(flood))

    assert await rejection(line, signed(claims=claims)) is Rejection.MALFORMED
    assert len(_JSON_STRING.findall('"' + r"\"" * 5_000)) == 1  # read once, not from each quote


NESTED = st.recursive(
    st.text(alphabet='[]{}"\\ab', max_size=12) | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[{"\\a', max_size=4), inner),
    max_leaves=60,
)


def _true_depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_true_depth, value), default=0) if isinstance(value, list) else 0


@given(st.lists(NESTED, min_size=1))
def test_depth_equals_the_parsers_depth(value: list[Any]) -> None:
    value += [[] for _ in range(40)]  # enough brackets that they are looked at one by one

    assert _depth(json.dumps(value)) == _true_depth(value)


# --- claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iss",
    [
        None, "", ISS + "/", ISS[:-1], ISS + "x", ISS.upper(), ISS.replace("https", "HTTPS"),
        ISS.replace("https", "http"), ISS.replace("idp", "IDP"), ISS + "#", ISS + "?", ISS + "\x00",
        " " + ISS, ISS + " ", ISS.replace("/realms", "/x/../realms"), "https://evil.example/" + ISS,
        [ISS], {"iss": ISS}, 7, True, "https", "corp",
    ],
    ids=repr,
)  # fmt: skip
async def test_similar_issuer_is_unknown(line: Identify, iss: object) -> None:
    assert await rejection(line, signed(claims={**CLAIMS, "iss": iss})) is Rejection.ISSUER_UNKNOWN


async def test_missing_issuer_is_rejected(line: Identify) -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != "iss"}

    assert await rejection(line, signed(claims=claims)) is Rejection.ISSUER_UNKNOWN


@pytest.mark.parametrize(
    "aud", ["g", "gww", "GW", ["gw", 1], {"gw": 1}, {}, [], None, True, "gw,x"]
)
async def test_similar_audience_is_rejected(line: Identify, aud: object) -> None:
    assert await rejection(line, signed(claims={**CLAIMS, "aud": aud})) is Rejection.AUDIENCE


@pytest.mark.parametrize(
    "exp",
    [
        b'"1900000000"', b"true", b"null", b"[1900000000]", b'{"a":1}', b"1e400", b"-1", b"1e300",
        b"9999999999999999999999",
    ],
)  # fmt: skip
async def test_malformed_exp_is_rejected(line: Identify, exp: bytes) -> None:
    plain = dumps({name: value for name, value in CLAIMS.items() if name != "exp"})[1:-1]

    token = signed(claims=b"{" + plain + b',"exp":' + exp + b"}")

    assert await rejection(line, token) is Rejection.CLAIMS


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 31}, Rejection.EXPIRED),
        ({"iat": NOW - 3_631}, Rejection.TOO_OLD),
        ({"nbf": NOW + 31}, Rejection.NOT_YET_VALID),
        ({"sub": "ann\x00"}, Rejection.CLAIMS),
        ({"sub": "\ud800"}, Rejection.CLAIMS),
        ({"sub": {"ann": 1}}, Rejection.CLAIMS),
        ({"groups": {"ops": True}}, Rejection.CLAIMS),
        ({"nonce": "n"}, Rejection.TOKEN_TYPE),
    ],
    ids=repr,
)
async def test_validly_signed_wrong_claims_are_rejected(
    line: Identify, claims: dict[str, Any], reason: Rejection
) -> None:
    assert await rejection(line, signed(claims={**CLAIMS, **claims})) is reason


# --- anything at all ----------------------------------------------------------------------------

SEGMENTS = signed().split(".")
PIECES = st.sampled_from([*SEGMENTS, ".", "=", " ", "", b64(b"{}"), b64(b'{"alg":"none"}')])


@given(st.text() | st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join))
def test_any_other_text_is_rejected(text: str) -> None:
    class Recorded:
        async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
            return (HONEST.key.public_key(),) if algorithm == "RS256" else ()

        async def keys_after_mismatch(self, *_: object) -> tuple[Any, ...]:
            return ()

    signatures = JwtSignatures([TrustedIssuer("corp", ISS, frozenset({"RS256"}), Recorded())])
    with pytest.raises((StopIteration, NotAuthenticated)) as ended:
        signatures.verify(Secret(text)).send(None)
    if isinstance(ended.value, StopIteration):
        assert (text, ended.value.value.claims) == (".".join(SEGMENTS), CLAIMS)


async def test_rejected_token_stays_rejected(
    line: Identify,
) -> None:
    good, forged = signed(), MALLORY.token(CLAIMS)

    principal = await line.identify(Secret(good))
    for _ in range(3):
        assert await rejection(line, forged) is Rejection.SIGNATURE

    assert isinstance(principal, Principal)
    assert cached_principal(line, good) is principal
