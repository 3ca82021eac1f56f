"""How a remote bucket and its read key fit into the 128 bytes that a hotkey commits on chain.

`s3:{host}:{bucket}:{packed}` where account id and keys are Cloudflare's (32, 32 and 64 lower-case hexadecimal digits): their
64 bytes as 86 characters of base64url; `s3:{host}:{bucket}:{account}:{key id}:{secret}` for any others. `host` is an index
into the network's list of hosts. The text is somebody else's: it is parsed by a strict grammar, and no part of it becomes
more of a URL than the account's label and the bucket's name.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from grail_core.errors import ConfigurationError, StorageError
from grail_core.protocol.network import MAX_COMMITMENT_BYTES

_BUCKET = r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"  # S3's rule, without the dots that no certificate covers
_ACCOUNT = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"  # one DNS label
_KEY_ID = r"[A-Za-z0-9_-]{1,64}"
_SECRET = r"[A-Za-z0-9+/=_-]{1,96}"
_PACKED = re.compile(rf"s3:(\d):({_BUCKET}):([A-Za-z0-9_-]{{86}})")
_PLAIN = re.compile(rf"s3:(\d):({_BUCKET}):({_ACCOUNT}):({_KEY_ID}):({_SECRET})")
_HOST = re.compile(rf"{_ACCOUNT}(?:\.{_ACCOUNT})*")
_URL = re.compile(rf"https?://{_ACCOUNT}(?:\.{_ACCOUNT})*(?::\d{{1,5}})?")


@dataclass(frozen=True)
class Credentials:
    key_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class BucketAddress:
    """A bucket and the key that reads it. `host_index` counts in the network's list of hosts."""

    host_index: int
    account: str
    bucket: str
    credentials: Credentials

    def to_text(self) -> str:
        """The commitment.

        Raises:
            ConfigurationError: a part has characters that no commitment has, or the text has more than 128 bytes.
        """
        key_id, secret = self.credentials.key_id, self.credentials.secret
        head = f"s3:{self.host_index}:{self.bucket}:"
        if _is_hex(self.account, 32) and _is_hex(key_id, 32) and _is_hex(secret, 64):
            raw = bytes.fromhex(self.account + key_id + secret)
            text = head + base64.urlsafe_b64encode(raw).decode().rstrip("=")
        else:
            text = head + f"{self.account}:{key_id}:{secret}"
        if len(text) > MAX_COMMITMENT_BYTES:
            raise ConfigurationError(
                f"the bucket's commitment has {len(text)} bytes, the chain takes {MAX_COMMITMENT_BYTES}",
                where="R2_BUCKET_ID",
                hint=f"a bucket name shorter by {len(text) - MAX_COMMITMENT_BYTES} fits",
            )
        if not (_PACKED.fullmatch(text) or _PLAIN.fullmatch(text)):
            raise ConfigurationError("the bucket, account or read key has characters that no commitment has", where="R2_*")
        return text


def parse_commitment(text: str, hosts: int) -> BucketAddress:
    """The address in a commitment, for a network with so many hosts.

    Raises:
        StorageError: the text is of no form above, or names a host that the network does not have.
    """
    if len(text) <= MAX_COMMITMENT_BYTES and text.isascii():
        if match := _PACKED.fullmatch(text):
            index, bucket, packed = match.groups()
            raw = base64.urlsafe_b64decode(packed + "==")
            address = BucketAddress(int(index), raw[:16].hex(), bucket, Credentials(raw[16:32].hex(), raw[32:].hex()))
        elif match := _PLAIN.fullmatch(text):
            index, bucket, account, key_id, secret = match.groups()
            address = BucketAddress(int(index), account, bucket, Credentials(key_id, secret))
        else:
            raise _refused(text)
        if address.host_index < hosts and address.to_text() == text:  # one text per bucket
            return address
    raise _refused(text)


def endpoint_of(account: str, host: str) -> str:
    """The endpoint of an account at one of the network's hosts.

    A plain host is a service with one name per account (`https://{account}.{host}`); an entry with a scheme is one server for
    everybody, for networks that run their own.

    Raises:
        ConfigurationError: the account is no DNS label, or the network's entry is neither form.
    """
    if _URL.fullmatch(host):
        return host
    if not _HOST.fullmatch(host):
        raise ConfigurationError("the network's parameters hold a store host that is none", where=repr(host))
    if not re.fullmatch(_ACCOUNT, account):
        raise ConfigurationError("the account id is not one", where="R2_ACCOUNT_ID")
    return f"https://{account}.{host}"


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and re.fullmatch(r"[0-9a-f]*", text) is not None


def _refused(text: str) -> StorageError:
    # The text may hold somebody's key: only its beginning is repeated.
    return StorageError("not a bucket commitment of this network: expected s3:HOST:BUCKET:…", where=repr(text[:24]))
