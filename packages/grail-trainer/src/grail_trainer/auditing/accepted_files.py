"""Which files a window's verdicts accept, asked again of the validators' buckets, against what a training log says of it.

The verdicts that the log counted are read again and held against chain and coins as the trainer had to; what they accept by the
quorum's rule has to be what the log names, whether it could be had or not. Verdicts that are not there any more leave that
open, and it is said. Which validators had spoken when the trainer decided is the trainer's word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grail_core.chain.base import Neuron
from grail_core.errors import StorageError
from grail_core.files.verdicts import RefusedVerdictError, read_verdict
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.read_key import with_newest_keys
from grail_core.participant.waiting import ChallengedWindow
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.quorum import accepted_digests, accepting_stake, scored_stake
from grail_core.protocol.types import Block, Digest, Hotkey
from grail_core.storage.time_limits import at_most
from grail_core.verification.verdict import contradictions, inputs_of
from grail_trainer.auditing.report import WindowAudit
from grail_trainer.data.intake import WantedFile
from grail_trainer.publishing.training_log import FileName, TrainingLog

MAX_VERDICT_SECONDS: Final = 60.0
"""That one validator's bucket may take to give a verdict."""


@dataclass(frozen=True)
class AcceptedFiles:
    """`files` are those that the log looked at, in its order, each with whom it may be had from. `follow`: the verdicts that
    the log counted are all here, so that nothing was left out."""

    files: tuple[WantedFile, ...]
    follow: bool


def accepted_files(participant: Participant, opened: ChallengedWindow, log: TrainingLog, audit: WindowAudit) -> AcceptedFiles:
    """Raises ChainError."""
    neurons = participant.chain.metagraph(Block(log.window)).neurons
    trusted = [n for n in neurons if n.validator_permit and n.stake > 0 and n.commitment is not None]
    trusted = with_newest_keys(trusted, participant.chain.metagraph().neurons, participant.params)
    trusted.sort(key=lambda neuron: (-neuron.stake, neuron.hotkey))
    stake = {neuron.hotkey: neuron.stake for neuron in trusted}
    verdicts = _verdicts(participant, log, trusted)
    strangers = sorted(log.verdicts.keys() - stake.keys())
    if strangers:
        audit.differs(f"it counts a verdict of {ss58(strangers[0])}, which held no permit, stake and bucket at block T")
    counted = _counted(opened, log, verdicts, {neuron.uid: neuron.hotkey for neuron in neurons}, audit)
    lacking = sorted(log.verdicts.keys() - counted.keys() - set(strangers))
    unheard = [ss58(validator) for validator in sorted(verdicts.keys() - log.verdicts.keys())]
    if unheard:
        audit.taken.append(f"verdicts that it did not count, and that lie there: {', '.join(unheard)}")
    if lacking:
        audit.taken.append(
            "which files were accepted: verdicts that it counted cannot be had, or not as they were "
            f"({', '.join(_gone(validator, verdicts) for validator in lacking)})"
        )
        _compare_rest(counted, sum(stake[validator] for validator in lacking), stake, log, audit)
    else:
        _compare(accepted_digests(counted, stake), log, audit)
    files = tuple(_wanted(file, trusted, verdicts) for file in log.files)
    for name in log.missing:
        audit.taken.append(f"the file of {ss58(name.hotkey)} could not be had: {name.content_digest.hex()}")
    return AcceptedFiles(files, not lacking)


def _verdicts(participant: Participant, log: TrainingLog, trusted: Iterable[Neuron]) -> dict[Hotkey, SignedVerdict]:
    """Those that can be read now."""
    found = {}
    for neuron in trusted:
        try:
            with at_most(MAX_VERDICT_SECONDS):
                store = participant.directory.open(neuron.commitment or "")
                verdict = read_verdict(store, log.window, neuron.hotkey, participant.network_id)
        except (RefusedVerdictError, StorageError):
            continue  # it is not to be had: the caller says what is open without it
        if verdict is not None:
            found[neuron.hotkey] = verdict
    return found


def _counted(
    opened: ChallengedWindow,
    log: TrainingLog,
    verdicts: Mapping[Hotkey, SignedVerdict],
    registered: Mapping[int, Hotkey],
    audit: WindowAudit,
) -> dict[Hotkey, SignedVerdict]:
    """The verdicts that the log counted, as far as they lie there; one that may not count is a difference."""
    counted = {}
    for validator, digest in log.verdicts.items():
        verdict = verdicts.get(validator)
        if verdict is None or verdict.body.digest() != digest:
            continue
        counted[validator] = verdict
        inputs = inputs_of(opened.context, opened.challenge)
        wrong = contradictions(verdict.body, inputs, opened.challenge.select_seed, registered)
        if wrong:
            audit.differs(f"it counts the verdict of {ss58(validator)}, which cannot be: {wrong[0]}")
    return counted


def _compare(accepted: Mapping[Hotkey, Digest], log: TrainingLog, audit: WindowAudit) -> None:
    named = {(file.hotkey, file.content_digest) for file in (*log.files, *log.missing)}
    wanted = set(accepted.items())
    for hotkey, digest in sorted(named - wanted):
        audit.differs(f"it names a file of {ss58(hotkey)} that the verdicts do not accept: {digest.hex()}")
    for hotkey, digest in sorted(wanted - named):
        audit.differs(f"it leaves out a file of {ss58(hotkey)} that the verdicts accept: {digest.hex()}")
    if len(log.files) + len(log.missing) != len(named):
        audit.differs("it names a file twice")
    audit.checked.append(f"{len(accepted)} files are what {len(log.verdicts)} verdicts accept")


def _gone(validator: Hotkey, verdicts: Mapping[Hotkey, SignedVerdict]) -> str:
    return f"{ss58(validator)}, where another one lies" if validator in verdicts else ss58(validator)


def _compare_rest(
    counted: Mapping[Hotkey, SignedVerdict], lacking: int, stake: Mapping[Hotkey, int], log: TrainingLog, audit: WindowAudit
) -> None:
    """What holds whatever the verdicts said that are gone, with so much stake behind them."""
    scored, accepting = scored_stake(counted, stake) + lacking, accepting_stake(counted, stake)
    named = {(file.hotkey, file.content_digest) for file in (*log.files, *log.missing)}
    for hotkey, digest in sorted(named):
        if 2 * (accepting.get((hotkey, digest), 0) + lacking) <= scored:
            audit.differs(f"it names a file of {ss58(hotkey)} that too few verdicts can have accepted: {digest.hex()}")
    for (hotkey, digest), weight in sorted(accepting.items()):
        if 2 * weight > scored and (hotkey, digest) not in named:
            audit.differs(f"it leaves out a file of {ss58(hotkey)} that the verdicts accept: {digest.hex()}")


def _wanted(file: FileName, trusted: Sequence[Neuron], verdicts: Mapping[Hotkey, SignedVerdict]) -> WantedFile:
    """Who accepted it first; where no verdict tells, anybody may have it."""
    accepting = tuple(neuron for neuron in trusted if _accepts(verdicts.get(neuron.hotkey), file))
    return WantedFile(file.hotkey, file.content_digest, accepting or tuple(trusted))


def _accepts(verdict: SignedVerdict | None, file: FileName) -> bool:
    if verdict is None or verdict.body.status is not WindowStatus.SCORED:
        return False
    miner = verdict.body.miner(file.hotkey)
    return miner is not None and miner.status is MinerStatus.ACCEPTED and miner.content_digest == file.content_digest
