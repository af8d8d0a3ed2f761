"""What a caller may know about a rejected credential: a part of the error table."""

from typing import Final

from gateway.domain.errors import Rejection

NO_CREDENTIAL_TEXTS: Final = {
    Rejection.MISSING: "No credential. Send your JWT as `Authorization: Bearer JWT`; see /docs.",
    Rejection.UNSUPPORTED_SCHEME: "Authorization must have the form `Bearer JWT`; see /docs.",
}
"""The texts for requests without a credential of a supported kind (RFC 6750, 3.1)."""
REJECTION_TEXTS: Final = {
    Rejection.EXPIRED: "the token has expired; get a new one from your identity provider",
    Rejection.NOT_YET_VALID: "the token is not valid yet; send it after its nbf and iat",
    Rejection.TOO_OLD: "the token was issued too long ago; get a new one from your identity"
    " provider",
    Rejection.AMBIGUOUS: "the request has two different tokens; send one",
    Rejection.MALFORMED: "the token is not a well-formed JWT; send the complete token and no other"
    " text",
    Rejection.TOO_LARGE: "the token is too large; reduce its claims at the identity provider",
    Rejection.AUDIENCE: "the token is for another audience; get one for this gateway's audience",
    Rejection.TOKEN_TYPE: "the token is not an access token; send the access token of the same"
    " login",
    Rejection.CLAIMS: "the token lacks a required claim; report the X-Request-Id to the operators",
    Rejection.GROUPS_MISSING: "the token has no groups claim; request the scope that adds it",
    Rejection.CERTIFICATE: "the certificate has expired, or the trusted authorities were reloaded;"
    " connect again",
    Rejection.FOREIGN_KEY: "the AK/SK pair is not from this gateway; send a JWT, or let the SDK get"
    " a temporary pair with HUAWEICLOUD_SDK_IDP_ID and HUAWEICLOUD_SDK_ID_TOKEN_FILE",
    Rejection.ISSUED_KEY: "AK and X-Security-Token are not a pair of this gateway; get a new pair",
    Rejection.ISSUED_KEY_EXPIRED: "the temporary AK/SK pair has expired; get a new one",
    Rejection.SUBJECT_TOKEN: "the subject token is not from this gateway; get one from"
    " POST /v3.0/OS-AUTH/id-token/tokens",
    Rejection.SIGNATURE_MALFORMED: "Authorization or X-Sdk-Date does not conform to"
    " SDK-HMAC-SHA256, or SignedHeaders lacks Host or X-Sdk-Date",
    Rejection.SIGNATURE_MISMATCH: "the request does not match its Authorization header; check the"
    " SK, and that no proxy changes Host, path or headers",
    Rejection.SIGNATURE_SKEW: "X-Sdk-Date differs too much from the time in the Date header;"
    " set the clock of the client",
    Rejection.SIGNATURE_REPLAYED: "this signed request was received before; sign each write anew",
}
"""The texts for rejected credentials, by reason. Other reasons have the message of the table,
because they would help a forger."""
