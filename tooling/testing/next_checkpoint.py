"""Checkpoints after the first of a `tooling.testing.network`: the same model with other weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from tooling.testing.network import FIRST_WINDOW, Network


class NextCheckpoints:
    """What the network's trainer publishes, window after window.

    Attributes:
        manifests: of all checkpoints so far. weights: of the newest, by name; tied names share their tensor.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.manifests = [network.manifest]
        folder = network.root / "model"
        self.weights: dict[str, Tensor] = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()

    def publish(self, changed: Callable[[Tensor], Tensor] = lambda tensor: tensor * 1.01) -> CheckpointManifest:
        """The next one, of which every tensor is `changed`."""
        participant, number = self._network.participant("trainer"), len(self.manifests)
        made = {tensor.data_ptr(): changed(tensor) for tensor in self.weights.values()}
        self.weights = {name: made[tensor.data_ptr()] for name, tensor in self.weights.items()}
        valid_from = Window(FIRST_WINDOW + WINDOW_LENGTH * (number + 1))
        first = self._network.manifest
        parts = CheckpointParts(
            network_id=participant.network_id,
            window=Window(valid_from - 2 * WINDOW_LENGTH),
            valid_from=valid_from,
            environment=self._network.environment.spec,
            policy=first.policy,
            end_token_ids=first.end_token_ids,
            thinking_mode=first.thinking_mode,
        )
        files = read_model_files(self._network.root / "model")
        self.manifests.append(
            publish(participant.own_checkpoints, parts, self.weights, files, participant.signer, self._network.params)
        )
        return self.manifests[-1]
