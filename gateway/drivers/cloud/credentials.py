"""The kinds of credential with which an account logs in to the cloud."""

from gateway.drivers.cloud.key_pair_credential import KeyPairCredential
from gateway.drivers.cloud.metadata_credential import MetadataCredential
from gateway.drivers.cloud.password_credential import PasswordCredential
from gateway.drivers.cloud.token_file_credential import TokenFileCredential

Credential = PasswordCredential | KeyPairCredential | MetadataCredential | TokenFileCredential

__all__ = [
    "Credential",
    "KeyPairCredential",
    "MetadataCredential",
    "PasswordCredential",
    "TokenFileCredential",
]
