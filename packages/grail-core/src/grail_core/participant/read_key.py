"""Changing a bucket's read key without anybody losing a window.

Readers of window T use the commitment of block T, until the window is void; checkpoints are read by the newest. So whoever
commits a new key keeps the old one valid until the last window that began before the new commitment was in force is over, and a
window longer, for readers whose view of the chain is old. Revoking it is the owner's own act, at the store's provider: nothing
here can. The write key is not committed, and may be changed at any time with a restart.

A chain may take a commitment and not answer. So the term is known before anything is committed, and can be had again from the
block that the chain names for the commitment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from grail_core.chain.base import Chain, Neuron, seconds_of
from grail_core.errors import ChainError, ConfigurationError, StorageError
from grail_core.participant.bucket_trial import TrialObject, require_read, trial_object
from grail_core.protocol import WindowTimes, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import NoAnswerError
from grail_core.storage.commitment import parse_commitment
from grail_core.storage.s3_directory import S3Directory


@dataclass(frozen=True)
class OldKeyTerm:
    """How long an old read key is needed. `until_ms` is the time of `until_block` as it is expected, Unix milliseconds."""

    last_window: Window  # whose readers use it
    until_block: Block
    until_ms: int


@dataclass(frozen=True)
class Rotation:
    """`committed`: the chain has taken the new key now; else it named it before. `old_reads`: the old key still does; None
    where that was not tried, or the store did not say.

    `term`: of the key that stood there before; None where none did. `over`: nobody reads by one any more.
    """

    committed: bool
    old_reads: bool | None
    term: OldKeyTerm | None
    over: bool = False


def old_key_term(chain: Chain, params: NetworkParameters, block: Block | None = None) -> OldKeyTerm:
    """For a commitment that is in force from the block after `block`; None: that was written just now."""
    head = chain.current_block()
    last = window_of(head if block is None else block)
    until = Block(WindowTimes(last, params).void_block + WINDOW_LENGTH)
    seconds = seconds_of(until - head, params.block_time_ms)  # negative for one long over: no archive is asked
    return OldKeyTerm(last, until, chain.block(head).timestamp_ms + round(1000 * seconds))


@dataclass(frozen=True)
class FormerCommitment:
    """What the chain named before a hotkey's present commitment, and until when that is needed.

    `text`: None where the chain does not say it, or nobody reads by it any more and it was not asked.
    """

    text: str | None
    term: OldKeyTerm
    over: bool


def former_commitment(chain: Chain, params: NetworkParameters, neuron: Neuron) -> FormerCommitment | None:
    """None where the hotkey's present commitment is known to be its first. Errors: ChainError."""
    block = neuron.commitment_block
    if not block:
        return None
    before = Block(block - 1)
    term = old_key_term(chain, params, before)
    if chain.current_block() >= term.until_block:
        return FormerCommitment(None, term, over=True)
    try:
        then = chain.metagraph(before).by_hotkey(neuron.hotkey)
    except ChainError:
        return FormerCommitment(None, term, over=False)  # thrown away by the nodes: there may have been one
    return None if then is None or then.commitment is None else FormerCommitment(then.commitment, term, over=False)


def commit_bucket(chain: Chain, signer: Signer, text: str, neuron: Neuron, params: NetworkParameters) -> OldKeyTerm | None:
    """Commit `text`, and say how long what stands there now is needed; None where nothing does.

    Raises:
        ChainError: before anything was sent, as the chain says it; afterwards, with what to do where the chain may have taken
            it all the same.
    """
    now = chain.current_block()
    # An extrinsic may wait: a window that begins meanwhile is still read by what stands there now.
    latest = old_key_term(chain, params, Block(now + WINDOW_LENGTH))
    try:
        chain.commit(signer, text)
    except ChainError as error:
        if not _names(chain, signer, text):
            if neuron.commitment is None:
                raise
            raise ChainError(
                error.what,
                where=error.where,
                hint=f"{error.hint or 'look at the chain'}; it may have been taken all the same: keep both read keys until "
                f"block {latest.until_block}, and do this again, which says what the chain names",
            ) from error
    if neuron.commitment is None:
        return None
    try:
        return old_key_term(chain, params)
    except ChainError:
        return latest


def _names(chain: Chain, signer: Signer, text: str) -> bool:
    try:
        neuron = chain.metagraph().by_hotkey(signer.hotkey)
    except ChainError:
        return False
    return neuron is not None and neuron.commitment == text


def rotate(chain: Chain, directory: S3Directory, params: NetworkParameters, signer: Signer, neuron: Neuron) -> Rotation:
    """Commit the read key of the settings in place of the one on chain, after trying that it reads and nothing more.

    Raises:
        ConfigurationError: it can write, or cannot read, or the chain names another bucket.
        StorageError: the store does not answer; nothing was committed.
        ChainError: see `commit_bucket`. What was begun is told by doing it again: `Rotation` has the term then too.
    """
    new, old = directory.commitment(), neuron.commitment
    if old is not None:
        _require_same_bucket(old, new, params)
    old_reads = _require_reads(directory, new, old)
    if old != new:
        return Rotation(True, old_reads, commit_bucket(chain, signer, new, neuron, params))
    former = former_commitment(chain, params, neuron)
    if former is None:
        return Rotation(False, old_reads, None)
    same = former.text is not None and _same_bucket(former.text, new, params)
    return Rotation(False, _reads_now(directory, former.text) if same and former.text else None, former.term, former.over)


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


def _require_reads(directory: S3Directory, new: str, old: str | None) -> bool | None:
    """Whether the old key reads, None where the store did not say; that the new one does is required."""
    with trial_object(directory) as trial:
        require_read(directory, new, trial)
        return old is not None and _reads(directory, old, trial)


def _reads_now(directory: S3Directory, commitment: str) -> bool | None:
    with trial_object(directory) as trial:
        return _reads(directory, commitment, trial)


def _reads(directory: S3Directory, commitment: str, trial: TrialObject) -> bool | None:
    try:
        return trial.reads(directory, commitment)
    except NoAnswerError:
        return None  # of the key it says nothing
    except StorageError:
        return False
