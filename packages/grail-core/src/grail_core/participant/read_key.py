"""Changing a bucket's read key without anybody losing a window.

Readers of window T use the commitment of block T, until the window is void; checkpoints are read by the newest. So whoever
commits a new key keeps the old one valid until the last window that began before the new commitment was in force is over, and a
window longer, for readers whose view of the chain is old. Revoking it is the owner's own act, at the store's provider: nothing
here can. The write key is not committed, and may be changed at any time with a restart.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from grail_core.chain.base import Chain, Neuron, time_of_block_ms
from grail_core.errors import ConfigurationError, StorageError
from grail_core.protocol import WindowTimes, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Window
from grail_core.storage.commitment import parse_commitment
from grail_core.storage.layout import DOCTOR_PREFIX
from grail_core.storage.s3_directory import S3Directory


@dataclass(frozen=True)
class OldKeyTerm:
    """How long an old read key is needed. `until_ms` is the time of `until_block` as it is expected, Unix milliseconds."""

    last_window: Window  # whose readers use it
    until_block: Block
    until_ms: int


@dataclass(frozen=True)
class Rotation:
    """`committed`: the chain has taken the new key now; else it named it before. `old_reads`: the old key still does."""

    committed: bool
    old_reads: bool
    term: OldKeyTerm | None


def old_key_term(chain: Chain, params: NetworkParameters) -> OldKeyTerm:
    """For a commitment that was written just now: it is in force from the block after the newest one at the latest."""
    block = chain.current_block()
    last = window_of(block)
    until = Block(WindowTimes(last, params).void_block + WINDOW_LENGTH)
    return OldKeyTerm(last, until, time_of_block_ms(chain, until, params.block_time_ms))


def rotate(chain: Chain, directory: S3Directory, params: NetworkParameters, signer: Signer, neuron: Neuron) -> Rotation:
    """Commit the read key of the settings in place of the one on chain, after trying that it reads and nothing more.

    Raises:
        ConfigurationError: it can write, or cannot read, or the chain names another bucket.
        StorageError, ChainError: the store or the chain does not answer; nothing was committed.
    """
    new, old = directory.commitment(), neuron.commitment
    if old is not None:
        _require_same_bucket(old, new, params)
    old_reads = _require_reads(directory, new, old)
    if old == new:
        return Rotation(False, old_reads, None)
    chain.commit(signer, new)
    return Rotation(True, old_reads, None if old is None else old_key_term(chain, params))


def with_newest_keys(neurons: Iterable[Neuron], now: Iterable[Neuron], params: NetworkParameters) -> list[Neuron]:
    """Neurons as of an earlier block, with the read keys that the same buckets have now: theirs may be revoked since."""
    newest = {neuron.hotkey: neuron.commitment for neuron in now}
    found = []
    for neuron in neurons:
        text = newest.get(neuron.hotkey)
        same = neuron.commitment is not None and text is not None and _same_bucket(neuron.commitment, text, params)
        found.append(replace(neuron, commitment=text) if same else neuron)
    return found


def _same_bucket(old: str, new: str, params: NetworkParameters) -> bool:
    try:
        was, shall = (parse_commitment(text, len(params.store_hosts)) for text in (old, new))
    except StorageError:
        return False
    return (was.host_index, was.account, was.bucket) == (shall.host_index, shall.account, shall.bucket)


def _require_same_bucket(old: str, new: str, params: NetworkParameters) -> None:
    try:
        parse_commitment(old, len(params.store_hosts))
    except StorageError:
        return  # what is there now nobody can read
    if not _same_bucket(old, new, params):
        raise ConfigurationError(
            "the chain names another bucket: with a key alone its readers would lose what lies there",
            where="R2_BUCKET_ID",
            hint="set R2_BUCKET_ID, R2_ACCOUNT_ID and R2_ENDPOINT_URL as they were; a role that starts takes another bucket",
        )


def _require_reads(directory: S3Directory, new: str, old: str | None) -> bool:
    """Whether the old key reads; that the new one does is required."""
    own, key, content = directory.own(), f"{DOCTOR_PREFIX}/{secrets.token_hex(8)}", secrets.token_bytes(16)
    info = own.put(key, content, if_absent=True)
    try:
        try:
            same = directory.open(new).get(key, max_bytes=len(content), if_match=info.etag) == content
        except StorageError as error:
            raise ConfigurationError(
                f"the new read key cannot read: {error.what}",
                where="R2_READ_ACCESS_KEY_ID",
                hint="give it permission to read objects of this bucket; a key that was made just now may take a minute",
            ) from error
        if not same:
            raise StorageError("the new read key reads something else than was written", where=key)
        return old is not None and _reads(directory, old, key, content)
    finally:
        own.delete(key)


def _reads(directory: S3Directory, commitment: str, key: str, content: bytes) -> bool:
    try:
        return directory.open(commitment).get(key, max_bytes=len(content)) == content
    except StorageError:
        return False
