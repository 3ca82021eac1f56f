"""A network inside one process, for tests: every part is the real one, only the clock stands still until it is told to move.

A development chain with a virtual clock, filesystem buckets, a BLS beacon, sr25519 keys, one published checkpoint of a tiny
random model over bytes. What a test does to it (mine, tamper, judge) is the test's own business.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from grail_core.beacon.development import DevelopmentBeacon, DevelopmentKey
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.loaded import LiveCheckpoint
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
from grail_miner.mining import Mining
from grail_validator.first_sight import FirstSight
from grail_validator.ledger import Ledger
from grail_validator.service import ValidatorService

END_TOKEN = "<end>"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
GENESIS_S = 1_700_000_000
FIRST_WINDOW = Window(30)


def make_model(folder: Path, *, seed: int = 3, hidden: int = 32, layers: int = 2) -> Path:
    """A random Qwen2 over bytes, saved as an ordinary Transformers folder."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END_TOKEN]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(alphabet),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.08,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_TOKEN)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


class SmallNetwork:
    """One trainer, some miners and validators. Names are `trainer`, `miner-0`, …, `validator-0`, …"""

    def __init__(
        self,
        root: Path,
        *,
        miners: int = 2,
        validators: int = 2,
        max_tokens: int = 8,
        environment: Environment | None = None,
        model: Path | None = None,
    ) -> None:
        self.root = root
        self.environment = environment or SatEnvironment(3, 4, 5, 6)
        names = ["trainer", *(f"miner-{i}" for i in range(miners)), *(f"validator-{i}" for i in range(validators))]
        self.signers = {name: LocalSigner.from_seed(hashlib.sha256(name.encode()).digest()) for name in names}
        key = DevelopmentKey.from_seed(b"small network")
        beacon_chain = BeaconChain(key.public_key, GENESIS_S, 1)
        self.params: NetworkParameters = dataclasses.replace(
            LOCALNET, beacon=beacon_chain, trainer_hotkey=self.signers["trainer"].hotkey
        )
        self.beacon = DevelopmentBeacon(key, beacon_chain)
        self.chain = LocalChain.create(
            root / "chain.sqlite",
            seed="small",
            netuid=self.params.netuid,
            block_time_ms=self.params.block_time_ms,
            genesis_time_ms=GENESIS_S * 1000,
            clock=ClockMode.VIRTUAL,
        )
        (root / "buckets").mkdir()
        for name, signer in self.signers.items():
            self.chain.register(signer)
            self.chain.commit(signer, self.directory(name).commitment())
            if name.startswith("validator"):
                self.chain.stake(signer, 1_000_000_000_000)
        self.chain.advance(3)
        folder = model or make_model(root / "model")
        self.manifest = self._publish(folder, max_tokens)

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
        )

    def mining(self, name: str, factory: type[Mining] = Mining) -> Mining:
        checkpoint = LiveCheckpoint(self.participant(name).checkpoints)
        return factory(self.signers[name], checkpoint, lambda manifest: self.environment)

    def validator(self, name: str) -> ValidatorService:
        participant = self.participant(name)
        ledger = Ledger(
            participant.cache_dir / "ledger.sqlite", network_id=participant.network_id, hotkey=participant.signer.hotkey
        )
        return ValidatorService(
            participant=participant,
            ledger=ledger,
            first_sight=FirstSight(participant, ledger, participant.cache_dir / "files"),
            checkpoint=LiveCheckpoint(participant.checkpoints, keep=4),
            environment_of=lambda manifest: self.environment,
        )

    def advance_to(self, block: int) -> None:
        """Move the clock to the time of a block."""
        missing = block - self.chain.current_block()
        if missing > 0:
            self.chain.advance(missing)

    def mine(self, mining: Mining, window: Window, groups: Sequence[int]) -> bytes:
        """The window file of these groups, not uploaded."""
        participant = self.participant("trainer")
        context = participant.open_window(window)
        loaded = mining.select_model(context)
        return mining.pack(context, loaded, mining.produce_groups(context, loaded, groups))

    def _publish(self, folder: Path, max_tokens: int) -> CheckpointManifest:
        participant = self.participant("trainer")
        weights = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
        parts = CheckpointParts(
            network_id=participant.network_id,
            window=Window(0),
            valid_from=FIRST_WINDOW,
            environment=self.environment.spec,
            policy=GenerationPolicy(max_tokens=max_tokens),
            end_token_ids=(256,),
            thinking_mode="none",
        )
        return publish(
            participant.own_store,
            parts,
            weights,
            read_model_files(folder),
            participant.signer,
            self.params,
            participant.cache_dir / "publish",
        )

    def block_time_ms(self, block: int) -> int:
        return self.chain.block(Block(block)).timestamp_ms
