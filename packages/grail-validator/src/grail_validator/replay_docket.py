"""Who stood before the checks of a published window: its docket, made again from seals, files and the verdict itself.

A miner is judged again where its file and what was sealed can still be had; of the others the verdict is taken, with the
reason. Chances and draws follow from memory and coins for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grail_core.chain.base import Neuron
from grail_core.files.window_file import WindowFileError
from grail_core.protocol import MinerStatus, MinerVerdict, MinerWindow, Seal, VerdictBody, counts_inconclusive, score_inputs
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.selection import Candidate, Selection, miner_coin, selected_by
from grail_core.protocol.types import Block, Digest, Hotkey, Signature, Window
from grail_core.verification.window_file import OpenFile
from grail_validator.cases import Announcement, Docket, Sealed, Sighting
from grail_validator.judging import MISSING
from grail_validator.published import Published

DRAWN = (MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.INCONCLUSIVE)
_UNSIGNED = Signature(bytes(64))
"""Of a seal made again from the file: the file was found to have the sealed header."""

History = Mapping[Hotkey, Sequence[MinerWindow]]


@dataclass
class Sealings:
    """What the miners of a window sealed, as far as it can still be had; `taken` are those of whom the verdict is."""

    published: Published
    open_file: OpenFile
    body: VerdictBody
    seals: dict[Hotkey, Seal] = field(default_factory=dict)
    taken: dict[Hotkey, str] = field(default_factory=dict)

    def gather(self) -> None:
        """Look for every seal that counted, and for the file where only that tells what was sealed."""
        for miner in self.body.miners:
            if miner.coin is None or miner.content_digest is None:
                continue
            why = _as_it_stands(miner)
            if why:
                self.taken[miner.hotkey] = why
                continue
            seal = self._seal(miner, miner.content_digest)
            if isinstance(seal, Seal):
                self.seals[miner.hotkey] = seal
            else:
                self.taken[miner.hotkey] = seal

    def _seal(self, miner: MinerVerdict, digest: Digest) -> Seal | str:
        window, hotkey = self.body.window, miner.hotkey
        seal = self.published.seal(window, hotkey, digest, self.body.network_id)
        if seal is not None:
            return seal
        if miner.status in (MinerStatus.NOT_SELECTED, MinerStatus.FAILED):
            return "its seal is nowhere any more"
        data = self.published.file(window, hotkey, digest)
        if data is None:
            return "its file is nowhere any more"
        try:
            header = self.open_file(data, None).header
            return Seal(ROLLOUTS, header, digest, len(data), _UNSIGNED)
        except (WindowFileError, ValueError):
            return "its seal is nowhere any more, and its file cannot be opened"


def _as_it_stands(miner: MinerVerdict) -> str:
    """Why nobody can make this verdict again, "" where somebody may."""
    if miner.findings == (MISSING,):
        return "which bytes this validator could not have"
    if miner.status is MinerStatus.INCONCLUSIVE and not miner.sampled:
        return f"what went wrong on this validator's machine ({miner.reason})"
    return ""


def toss(body: VerdictBody, sealings: Sealings, history: History, select_seed: bytes | None) -> dict[Hotkey, Selection]:
    """Chances, coins and draws of all whose seals counted. `select_seed` None: the coins are the verdict's."""
    candidates: dict[Hotkey, Candidate] = {}
    coins: dict[Hotkey, int] = {}
    for miner in body.miners:
        if miner.coin is None:
            continue
        seal = sealings.seals.get(miner.hotkey)
        before = score_inputs(history.get(miner.hotkey, ()), body.window)
        declared = miner.declared if seal is None else seal.header.declared
        candidates[miner.hotkey] = Candidate(declared, before.supported, before.in_lookback)
        coins[miner.hotkey] = miner.coin if select_seed is None else miner_coin(select_seed, miner.hotkey)
    return {one.hotkey: one for one in selected_by(coins, candidates)}


def docket_of(
    body: VerdictBody, sealings: Sealings, coins: Mapping[Hotkey, Selection], history: History
) -> tuple[Docket, list[str]]:
    """The docket, and what of the draw cannot be. Whoever is taken stands among the refused, whose verdicts are not touched."""
    sealed: list[Sealed] = []
    as_said: list[MinerVerdict] = []
    faults: list[str] = []
    for miner in body.miners:
        coin = coins.get(miner.hotkey)
        seal = sealings.seals.get(miner.hotkey)
        if coin is not None and seal is not None and miner.hotkey not in sealings.taken:
            sealed.append(Sealed(_announced(miner, seal), seal, coin))
        elif coin is None:
            as_said.append(miner)
        else:
            as_said.append(_as_drawn(miner, coin, history, body.window))
            if coin.selected is not (miner.status in DRAWN):
                drawn = "drawn" if coin.selected else "not drawn"
                faults.append(f"draw of uid {miner.uid}: {miner.status.value}; by coins and chances it is {drawn}")
    return Docket(tuple(sealed), tuple(as_said)), faults


def _announced(miner: MinerVerdict, seal: Seal) -> Announcement:
    neuron = Neuron(miner.uid, miner.hotkey, 0, False, Block(0), None, None, Block(0))
    return Announcement(neuron, Sighting(miner.hotkey, seal.encode(), miner.store_time_ms or 0), in_time=True)


def _as_drawn(miner: MinerVerdict, coin: Selection, history: History, window: Window) -> MinerVerdict:
    """The verdict as it stands, but for what follows from memory and coins."""
    told = replace(miner, check_probability=coin.probability, coin=coin.coin)
    if told.status is MinerStatus.INCONCLUSIVE:
        counts = counts_inconclusive(history.get(miner.hotkey, ()), window, miner.declared)
        told = replace(told, checked=counts)
    return told
