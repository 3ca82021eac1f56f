"""Who signed an order: a hotkey, or the address of a wallet.

An account is 32 bytes. Twelve zero bytes in front make it an address, which signs the digest as wallets do (secp256k1, 65
bytes); any other is an sr25519 hotkey, which signs H("grail/infer/command", digest). Recovering a wallet's signer needs
`grail-core[inference]`; everything else here needs nothing.
"""

from __future__ import annotations

from typing import Final

from grail_core.inference.keccak import keccak256
from grail_core.protocol.encoding import tagged_hash
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest

ADDRESS_BYTES: Final = 20
WALLET_SIGNATURE_BYTES: Final = 65
HOTKEY_SIGNATURE_BYTES: Final = 64

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1's group. Of (r, s) and (r, order − s), which sign alike, wallets make and contracts take the lower s."""


class NoWalletLibraryError(Exception):
    """A wallet's signature cannot be looked at here: `grail-core[inference]` is not installed."""


def is_address(account: bytes) -> bool:
    """Whether an account of 32 bytes is a wallet's address; a hotkey never begins with so many zero bytes."""
    return len(account) == 32 and account[:12] == bytes(12) and any(account)


def account_of(address: bytes) -> bytes:
    """The account of an address of 20 bytes."""
    if len(address) != ADDRESS_BYTES:
        raise ValueError(f"an address has {ADDRESS_BYTES} bytes, not {len(address)}")
    return bytes(12) + address


def command_message(network_id: bytes, digest: bytes) -> Digest:
    """What a hotkey signs for a typed-data digest."""
    return tagged_hash(network_id, "grail/infer/command", digest)


def is_signed_by(network_id: bytes, account: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the account signed this typed-data digest. Malformed signatures are False.

    Raises:
        NoWalletLibraryError: the account is an address, and nothing here can recover a signer.
    """
    if is_address(account):
        return _recovered(digest, signature) == account[12:]
    return len(signature) == HOTKEY_SIGNATURE_BYTES and verify(account, command_message(network_id, digest), signature)


def _recovered(digest: bytes, signature: bytes) -> bytes | None:
    """The address that signed; None where the signature is none, or is the other of its pair."""
    if len(signature) != WALLET_SIGNATURE_BYTES or signature[64] not in (27, 28):
        return None
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if not 0 < r < _ORDER or not 0 < s <= _ORDER // 2:
        return None
    try:
        from eth_keys.datatypes import Signature
        from eth_keys.exceptions import BadSignature
        from eth_utils.exceptions import ValidationError
    except ImportError as error:
        raise NoWalletLibraryError from error
    try:
        key = Signature(vrs=(signature[64] - 27, r, s)).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError):
        return None
    return keccak256(key.to_bytes())[12:]
