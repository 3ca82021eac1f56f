"""A `tooling.testing.network` whose first checkpoint is gradient work: float32, the `tiny` spec, the corpus `bytes-1`."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.participant.round_models import RoundModels, float32_weights
from grail_core.participant.rounds import open_round_challenge, round_of_window
from grail_core.protocol.context import Challenge
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Window
from grail_envs.corpus.bytes_1 import Bytes1
from grail_miner.gradient.service import GradientMiner
from grail_miner.gradient.state import GradientState
from grail_miner.gradient.training import Training
from grail_trainer.merging.service import Aggregator
from grail_trainer.tiny.gradient_model import create
from grail_validator.gradient.service import GradientValidator
from grail_validator.kinds import WindowKinds
from grail_validator.ledger import Ledger
from tooling.testing.network import FIRST_WINDOW, Network


class GradientNetwork(Network):
    """Its participants' models are shared: one process holds the weights once."""

    def __init__(self, root: Path, spec: GradientSpec, *, seed: int = 0, **handles: Any) -> None:
        self.spec, self.seed = spec, seed
        super().__init__(root, **handles)
        self.models = RoundModels(self.participant("trainer").checkpoints)

    def copied(self, root: Path) -> Self:
        """The same network in a copy of its folder: what happens in the one is not seen in the other."""
        shutil.copytree(self.root, root)
        return self.over(root)

    def over(self, root: Path) -> Self:
        """The network whose copy lies in this folder."""
        other = copy.copy(self)
        other.root, other.chain = root, LocalChain.open(root / "chain.sqlite")
        other.models = RoundModels(other.participant("trainer").checkpoints)
        return other

    @property
    def miners(self) -> list[str]:
        return [name for name in self.signers if name.startswith("miner")]

    @property
    def validators(self) -> list[str]:
        return [name for name in self.signers if name.startswith("validator")]

    def _publish(self, folder: Path, max_tokens: int, end: int) -> CheckpointManifest:
        participant, folder = self.participant("trainer"), self.root / "gradient-model"
        create(folder, self.seed)
        parts = CheckpointParts(
            network_id=participant.network_id,
            window=Window(0),
            valid_from=Window(-(-FIRST_WINDOW // self.spec.round_blocks) * self.spec.round_blocks),
            environment=self.spec.environment(Bytes1.spec.digest),
            policy=GenerationPolicy(max_tokens=max_tokens),
            end_token_ids=(256,),
            thinking_mode="none",
        )
        files = read_model_files(folder)
        return publish(participant.own_checkpoints, parts, float32_weights(folder), files, participant.signer, self.params)

    def round(self, first: Window) -> RoundContext:
        """Its context; the seed beacon's block has to be there."""
        return round_of_window(self.participant("trainer").open_window(first))

    def challenge(self, context: RoundContext) -> Challenge:
        return open_round_challenge(self.participant("trainer"), context)

    def validator(self, name: str, **handles: Any) -> GradientValidator:
        """The participant's, over its own ledger; a second call is the same validator started again.

        Args:
            handles: what it has instead of its own chain, beacon or directory, here and below.
        """
        participant = replace(self.participant(name), **handles)
        ledger = Ledger(participant.state.ledger, network_id=participant.network_id, hotkey=participant.signer.hotkey)
        return GradientValidator(participant, ledger, self.models, lambda spec: Bytes1(), WindowKinds(participant))

    def aggregator(self, **handles: Any) -> Aggregator:
        """The trainer's."""
        return Aggregator(replace(self.participant("trainer"), **handles), self.models, lambda spec: Bytes1())

    def miner(self, name: str, factory: type[Training] = Training, batch: int | None = 4, **handles: Any) -> GradientMiner:
        """The participant's, over its own state; a second call is the same miner started again."""
        participant = replace(self.participant(name), **handles)
        training = factory(participant.signer, self.models, lambda spec: Bytes1())
        state = GradientState(participant.state.root / "gradient")
        return GradientMiner(participant, training, state, batch)
