"""What a window's validators say, for who exports it: their verdicts, by signature and stake, and who has which file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from grail_core.chain.base import Chain, Neuron
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import StorageError
from grail_core.files.verdicts import RefusedVerdictError, read_any_verdict
from grail_core.participant.read_key import with_newest_keys
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.quorum import half_scored
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import StoreDirectory
from grail_core.storage.time_limits import at_most
from grail_core.verification.window_file import OpenFile

VERDICT_SECONDS: Final = 60.0
"""In which a bucket has to hand over one verdict."""


@dataclass(frozen=True)
class ExportSource:
    """A network, to read. `open_file` opens a stranger's bytes; a command's does it in a process with limits."""

    chain: Chain
    params: NetworkParameters
    network_id: Digest
    directory: StoreDirectory
    checkpoints: CheckpointSource
    open_file: OpenFile


@dataclass(frozen=True)
class Heard:
    """What the trusted validators of a window say. `silent`: by validator, why nothing of it counts."""

    trusted: tuple[Neuron, ...]
    verdicts: Mapping[Hotkey, SignedVerdict]
    silent: Mapping[Hotkey, str]
    is_round: bool

    @property
    def stake(self) -> dict[Hotkey, int]:
        return {neuron.hotkey: neuron.stake for neuron in self.trusted}

    def holders(self, hotkey: Hotkey, digest: Digest) -> list[Neuron]:
        """Who accepted this file, the most stake first."""
        return [neuron for neuron in self.trusted if self._accepts(neuron.hotkey, hotkey, digest)]

    def sampled(self, hotkey: Hotkey) -> frozenset[tuple[int, int]]:
        """Rows that a validator opened that accepted its file."""
        judged = (verdict.body.miner(hotkey) for verdict in self.verdicts.values())
        return frozenset(row for one in judged if one is not None and one.status is MinerStatus.ACCEPTED for row in one.sampled)

    def _accepts(self, validator: Hotkey, hotkey: Hotkey, digest: Digest) -> bool:
        verdict = self.verdicts.get(validator)
        judged = None if verdict is None or verdict.body.status is not WindowStatus.SCORED else verdict.body.miner(hotkey)
        return judged is not None and judged.status is MinerStatus.ACCEPTED and judged.content_digest == digest

    @property
    def why_none(self) -> str:
        """Why no file of the window is accepted."""
        if not self.trusted:
            return "no validator had a permit, stake and a bucket when the window began"
        if half_scored(self.verdicts, self.stake):
            return "no file was accepted by most of the stake that scored the window"
        said = [*(f"{verdict.body.status.value} {verdict.body.reason}".strip() for verdict in self.verdicts.values())]
        reasons = ", ".join(dict.fromkeys([*said, *self.silent.values()]))
        return f"less than half of the trusted stake has scored it ({reasons})"[:1000]


def hear(source: ExportSource, window: Window) -> Heard:
    """Read every trusted validator's verdict of a window. Raises ChainError."""
    neurons = source.chain.metagraph(Block(window)).neurons
    trusted = [n for n in neurons if n.validator_permit and n.stake > 0 and n.commitment is not None]
    trusted = with_newest_keys(trusted, source.chain.metagraph().neurons, source.params)
    trusted.sort(key=lambda neuron: (-neuron.stake, neuron.hotkey))
    verdicts: dict[Hotkey, SignedVerdict] = {}
    silent: dict[Hotkey, str] = {}
    is_round = False
    for neuron in trusted:
        try:
            with at_most(VERDICT_SECONDS):
                store = source.directory.open(neuron.commitment or "")
                verdict = read_any_verdict(store, window, neuron.hotkey, source.network_id)
        except (RefusedVerdictError, StorageError) as error:
            silent[neuron.hotkey] = error.what
            continue
        if not isinstance(verdict, SignedVerdict):
            is_round = is_round or verdict is not None
            silent[neuron.hotkey] = "no verdict of this window"
        else:
            verdicts[neuron.hotkey] = verdict
    return Heard(tuple(trusted), verdicts, silent, is_round)
