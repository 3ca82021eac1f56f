"""A network inside one process, for tests: every part is the real one, only the clock stands still until it is told to move.

A development chain with a virtual clock, filesystem buckets, a BLS beacon, sr25519 keys, one published checkpoint of a tiny
random model over bytes. It has participants and no roles, so that the tests of any one package can use it: what a miner or
a validator does in it is in `mining` and `validating`, and `small_network` has all of it together.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Self

import torch
from transformers import Qwen2ForCausalLM

from grail_core.beacon.development import DevelopmentBeacon, DevelopmentKey
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.chain.development.state import ChainRules
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.environment import Environment
from grail_core.keys import LocalSigner
from grail_core.participant.participant import Participant
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Block, Window
from grail_core.storage.filesystem import FilesystemDirectory
from grail_envs.sat import SatEnvironment
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, save_byte_model

GENESIS_S = 1_700_000_000
FIRST_WINDOW = Window(30)


class Network:
    """One trainer, some miners and validators. Names are `trainer`, `miner-0`, …, `validator-0`, …

    Args:
        root: empty folder for chain, buckets and caches. max_tokens: the policy's limit. environment: a small SAT one by
            default. model: Transformers folder of the checkpoint; by default one over bytes is made. end: its one end token.
        rules: of the chain.
        block_time_ms: how long what a role waits for, which is counted in blocks, takes. chain: what its hashes follow from.
    """

    def __init__(
        self,
        root: Path,
        *,
        miners: int = 2,
        validators: int = 2,
        max_tokens: int = 8,
        environment: Environment | None = None,
        model: Path | None = None,
        end: int = END_TOKEN_ID,
        rules: ChainRules | None = None,
        block_time_ms: int = LOCALNET.block_time_ms,
        chain: str = "small",
    ) -> None:
        self._name(root, miners, validators, environment, block_time_ms)
        self.chain = LocalChain.create(
            root / "chain.sqlite",
            seed=chain,
            netuid=self.params.netuid,
            block_time_ms=self.params.block_time_ms,
            genesis_time_ms=GENESIS_S * 1000,
            clock=ClockMode.VIRTUAL,
            rules=rules,
        )
        (root / "buckets").mkdir()
        for name, signer in self.signers.items():
            self.chain.register(signer)
            self.chain.commit(signer, self.directory(name).commitment())
            if name.startswith("validator"):
                self.chain.stake(signer, 1_000_000_000_000)
        self.chain.advance(3)
        folder = model or save_byte_model(root / "model")
        self.manifest = self._publish(folder, max_tokens, end)

    @classmethod
    def reopened(
        cls,
        root: Path,
        *,
        miners: int = 2,
        validators: int = 2,
        environment: Environment | None = None,
        block_time_ms: int = LOCALNET.block_time_ms,
    ) -> Self:
        """The network that another process made in this folder, with the same arguments."""
        network = cls.__new__(cls)
        network._name(root, miners, validators, environment, block_time_ms)
        network.chain = LocalChain.open(root / "chain.sqlite")
        return network

    def _name(self, root: Path, miners: int, validators: int, environment: Environment | None, block_time_ms: int) -> None:
        self.root = root
        self.environment = environment or SatEnvironment(3, 4, 5, 6)
        names = ["trainer", *(f"miner-{i}" for i in range(miners)), *(f"validator-{i}" for i in range(validators))]
        self.signers = {name: LocalSigner.from_seed(hashlib.sha256(name.encode()).digest()) for name in names}
        key = DevelopmentKey.from_seed(b"small network")
        beacon_chain = BeaconChain(key.public_key, GENESIS_S, 1)
        self.params: NetworkParameters = dataclasses.replace(
            LOCALNET, beacon=beacon_chain, trainer_hotkey=self.signers["trainer"].hotkey, block_time_ms=block_time_ms
        )
        self.beacon = DevelopmentBeacon(key, beacon_chain)

    def directory(self, name: str) -> FilesystemDirectory:
        return FilesystemDirectory(self.root / "buckets", f"bucket-{name}", clock=self.chain.now_ms)

    def participant(self, name: str) -> Participant:
        return Participant(
            params=self.params,
            chain=self.chain,
            directory=self.directory(name),
            beacon=self.beacon,
            signer=self.signers[name],
            cache_dir=self.root / "cache" / name,
            state_dir=self.root / "state" / name,
        )

    def environment_of(self, manifest: CheckpointManifest) -> Environment:
        """What a service is told of the environment: the same one for every checkpoint."""
        return self.environment

    def advance_to(self, block: int) -> None:
        """Move the clock to the time of a block."""
        missing = block - self.chain.current_block()
        if missing > 0:
            self.chain.advance(missing)

    def block_time_ms(self, block: int) -> int:
        return self.chain.block(Block(block)).timestamp_ms

    def _publish(self, folder: Path, max_tokens: int, end: int) -> CheckpointManifest:
        participant = self.participant("trainer")
        weights = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
        parts = CheckpointParts(
            network_id=participant.network_id,
            window=Window(0),
            valid_from=FIRST_WINDOW,
            environment=self.environment.spec,
            policy=GenerationPolicy(max_tokens=max_tokens),
            end_token_ids=(end,),
            thinking_mode="none",
        )
        files = read_model_files(folder)
        return publish(participant.own_checkpoints, parts, weights, files, participant.signer, self.params)
