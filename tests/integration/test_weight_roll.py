"""No row of a miner has tokens of one checkpoint and sketches of another, whatever goes wrong while weights are rolled.

The engine is the double over HTTP, with a real model that decodes; the prover, the checkpoints and their store are the real
ones. What a row's tokens ought to be is drawn again by the network's own generator under the checkpoint that the row claims,
and its sketches are computed again with that checkpoint's model.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import EngineError, GrailError
from grail_core.generation.base import Completion, GenerationRequest
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.hf import HfGenerator
from grail_core.generation.options import EngineOptions
from grail_core.generation.remote import RemoteGenerator
from grail_core.generation.server import EngineServer
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.supervised import Restarts, SupervisedGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.sketches import projections
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.types import Window
from grail_miner.proving.in_process import InProcessProver
from grail_miner.weight_roll import WeightRoll
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import KINDS, Fault, Occasion
from tooling.testing.engine_double.process import pose
from tooling.testing.engine_double.setup import Flavour
from tooling.testing.models.tiny_qwen2 import BYTES
from tooling.testing.network import FIRST_WINDOW, Network

TOKENS = 8
PROMPTS: tuple[tuple[int, ...], ...] = ((72, 105), (72, 105), (1, 2, 3, 4, 5, 6, 7, 8, 9), (200,))
"""The same ones before and after a roll, so that a prefix cache that is kept has something to spoil."""
EVERY: tuple[Flavour, ...] = ("sglang", "vllm")
SIGNS = projections(Randomness(bytes(32)), b"s" * 32, BYTES.hidden)
CLIENTS: dict[Flavour, type[RemoteGenerator]] = {"sglang": SglangGenerator, "vllm": VllmGenerator}


class Oracle:
    """What the checkpoints really are, by their digest: computed beside the miner, from folders of its own."""

    def __init__(self, source: CheckpointSource, manifests: Sequence[CheckpointManifest]) -> None:
        self._generators: dict[str, HfGenerator] = {}
        self._models: dict[str, PolicyModel] = {}
        for manifest in manifests:
            version, folder = manifest.digest.hex(), source.materialise(manifest)
            exact = PolicyModel.load(folder, dtype="float32")  # where every implementation draws the same
            self._generators[version] = HfGenerator(exact, manifest.policy, frozenset(manifest.end_token_ids))
            self._models[version] = PolicyModel.load(folder)

    def tokens(self, version: str, requests: Sequence[GenerationRequest]) -> list[tuple[int, ...]]:
        return [completion.tokens for completion in self._generators[version].generate(requests)]

    def proofs(self, version: str, rows: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> list[RolloutProof]:
        return prove_rollouts(self._models[version], rows, lengths, SIGNS)


@dataclass(frozen=True)
class Checkpoints:
    """Two of one network: `after` is a delta's step from `before`."""

    source: CheckpointSource
    before: CheckpointManifest
    after: CheckpointManifest
    oracle: Oracle


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    network = Network(tmp_path_factory.mktemp("network"), miners=1, validators=0, max_tokens=TOKENS)
    trainer, model = network.participant("trainer"), network.root / "model"
    parts = CheckpointParts(
        network_id=trainer.network_id,
        window=FIRST_WINDOW,
        valid_from=Window(FIRST_WINDOW + 60),
        environment=network.manifest.environment,
        policy=network.manifest.policy,
        end_token_ids=network.manifest.end_token_ids,
        thinking_mode=network.manifest.thinking_mode,
    )
    state = Qwen2ForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    generator = torch.Generator().manual_seed(5)
    moved = {
        name: torch.where(torch.rand(tensor.shape, generator=generator) < 0.3, tensor * 1.5, tensor)
        for name, tensor in state.items()
    }
    moved["lm_head.weight"] = moved["model.embed_tokens.weight"]  # tied
    after = publish(trainer.own_checkpoints, parts, moved, read_model_files(model), trainer.signer, trainer.params)
    source = network.participant("miner-0").checkpoints
    return Checkpoints(source, network.manifest, after, Oracle(source, [network.manifest, after]))


class Miner:
    """The weight-bearing part of one: a generator, a prover, and what rolls both. Every row that it makes is kept."""

    def __init__(
        self, checkpoints: Checkpoints, generator: RemoteGenerator | SupervisedGenerator, folders: EngineFolders
    ) -> None:
        self.generator, self.prover = generator, InProcessProver()
        self.roll = WeightRoll(checkpoints.source, generator, self.prover, folders=folders)
        self.rows: list[tuple[str, GenerationRequest, Completion, RolloutProof]] = []
        self._seeds = itertools.count(1)

    def mine(self, manifest: CheckpointManifest) -> int:
        """One batch with this checkpoint, as a window that asks for it would; returns how many rows came.

        Raises:
            GrailError: none is made with it.
        """
        prepared = self.roll.at(manifest)
        requests = self.requests()
        drawn = [(requests[one.index], one.completion) for one in self.generator.generate(requests, lambda: False)]
        self.keep(prepared, drawn)
        return len(drawn)

    def requests(self) -> list[GenerationRequest]:
        return [GenerationRequest(prompt, next(self._seeds)) for prompt in PROMPTS]

    def keep(self, prepared: PreparedCheckpoint, drawn: Sequence[tuple[GenerationRequest, Completion]]) -> None:
        rows = [(*request.prompt, *completion.tokens) for request, completion in drawn]
        if rows:
            proofs = self.prover.prove(rows, [len(request.prompt) for request, _ in drawn], SIGNS)
            version = prepared.manifest.digest.hex()
            self.rows += [(version, *pair, proof) for pair, proof in zip(drawn, proofs, strict=True)]

    def close(self) -> None:
        self.roll.close()
        self.generator.close()
        self.prover.close()


def mixed(miner: Miner, oracle: Oracle) -> list[str]:
    """Rows whose tokens or sketches are not those of the checkpoint that they claim."""
    found: list[str] = []
    for version in sorted({version for version, *_ in miner.rows}):
        rows = [row[1:] for row in miner.rows if row[0] == version]
        proper = oracle.tokens(version, [request for request, _, _ in rows])
        for (request, completion, _), tokens in zip(rows, proper, strict=True):
            if completion.tokens != tokens:
                found.append(f"tokens of seed {request.sampling_seed} are not {version[:8]}'s")
        for start in range(0, len(rows), len(PROMPTS)):  # batches as they were proved: shapes are part of the numbers
            batch = rows[start : start + len(PROMPTS)]
            again = oracle.proofs(version, [(*r.prompt, *c.tokens) for r, c, _ in batch], [len(r.prompt) for r, _, _ in batch])
            if [proof.sketches for proof in again] != [proof.sketches for _, _, proof in batch]:
                found.append(f"sketches of batch {start} are not {version[:8]}'s")
    return found


@pytest.fixture(params=EVERY)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    named: Flavour = request.param
    return named


@pytest.fixture
def double(flavour: Flavour, checkpoints: Checkpoints) -> Iterator[EngineDouble]:
    with EngineDouble.of(flavour, checkpoints.source.materialise(checkpoints.before)) as running:
        yield running


@pytest.fixture
def miner(flavour: Flavour, double: EngineDouble, checkpoints: Checkpoints, tmp_path: Path) -> Iterator[Miner]:
    options = EngineOptions(flavour, url=double.url, max_model_len=512, max_concurrent=len(PROMPTS))
    generator = CLIENTS[flavour](double.url, options, numerics_class="double", retry_s=0.001)
    made = Miner(checkpoints, generator, EngineFolders(tmp_path / "weights"))
    yield made
    made.close()


def test_a_roll_in_mid_window_changes_tokens_and_sketches_together(
    miner: Miner, double: EngineDouble, checkpoints: Checkpoints
) -> None:
    for manifest in (checkpoints.before, checkpoints.after, checkpoints.before):
        assert miner.mine(manifest) == len(PROMPTS)
    assert mixed(miner, checkpoints.oracle) == []
    requests = miner.requests()
    old, new = (checkpoints.oracle.tokens(m.digest.hex(), requests) for m in (checkpoints.before, checkpoints.after))
    assert all(one != other for one, other in zip(old, new, strict=True))  # or the test could not fail


def _faults(flavour: Flavour) -> Iterator[Fault]:
    """Every fault of an update, at each of its requests: what the engine reports, refuses, breaks off, or dies of."""
    kinds = ["update_refused", "update_torn", "update_then_error", "dies_in_update"]
    yield from (Fault(kind) for kind in (*kinds, "label_only") if kind != "label_only" or flavour == "sglang")
    broken = ("error_500", "loading_503", "no_response", "half_response", "redirect", "huge_body", "dies")
    asked: tuple[Occasion, ...] = ("pause", "resume", "info", "update")
    for on in (*asked, "label", "flush") if flavour == "vllm" else asked:
        yield from (Fault(kind, on=on) for kind in broken)
    # What is read of the answer: SGLang's to an update, and what either says that it serves.
    yield from (Fault("invalid_json", on=on) for on in (("update", "info") if flavour == "sglang" else ("flush", "info")))
    yield from (Fault(kind) for kind in ("flush_refused", "label_refused") if flavour == "vllm")
    yield Fault("wrong_version", value="another")


ALWAYS = {"update_torn", "no_response-update", "error_500-flush", "dies-resume", "label_only"}
"""Asked in every run; the others where there is time."""


def _named(fault: Fault) -> str:
    return fault.kind if KINDS[fault.kind][0] else f"{fault.kind}-{fault.on}"


def _cases() -> Iterator[Any]:
    for flavour in EVERY:
        for fault in _faults(flavour):
            marks = () if _named(fault) in ALWAYS else pytest.mark.heavy
            yield pytest.param(flavour, fault, marks=marks, id=f"{flavour}-{_named(fault)}")


@pytest.mark.parametrize(("flavour", "fault"), list(_cases()), indirect=["flavour"])
def test_no_fault_of_an_update_makes_a_row_of_two_checkpoints(
    fault: Fault, miner: Miner, double: EngineDouble, checkpoints: Checkpoints
) -> None:
    assert miner.mine(checkpoints.before) == len(PROMPTS)
    double.faults.add(replace(fault, value=fault.value or double.url))
    failed = 0
    # The next window's checkpoint, the former's again (an engine that kept it may go on), and the next one's once more.
    for manifest in (checkpoints.after, checkpoints.before, checkpoints.after):
        try:
            assert miner.mine(manifest) == len(PROMPTS)
        except GrailError:
            failed += 1
    assert [struck.kind for struck in double.faults.struck] == [fault.kind]
    assert mixed(miner, checkpoints.oracle) == []
    assert failed == 3 if "dies" in fault.kind else failed < 3  # what lives again is used again


def test_what_an_engine_leaves_out_in_silence_is_seen_by_drawing_again(
    miner: Miner, double: EngineDouble, checkpoints: Checkpoints
) -> None:
    """No client can see this in what the engine answers; that it is seen here is what the tests above rest on."""
    assert miner.mine(checkpoints.before) == len(PROMPTS)
    double.faults.add(Fault("update_torn_silently"))
    assert miner.mine(checkpoints.after) == len(PROMPTS)
    assert any("tokens" in row for row in mixed(miner, checkpoints.oracle))


@pytest.mark.parametrize("after_steps", [0, 3])
def test_a_batch_that_is_still_drawn_when_the_weights_roll_yields_nothing_of_the_next_ones(
    after_steps: int, miner: Miner, double: EngineDouble, checkpoints: Checkpoints
) -> None:
    """The order that a miner must not take, and from which no row may come of it either."""
    prepared = miner.roll.at(checkpoints.before)
    double.engine.hold(after_steps)
    requests = miner.requests()
    batch = iter(miner.generator.generate(requests, lambda: False))
    double.engine.run_freely()
    first = next(batch)
    drawn = [(requests[first.index], first.completion)]
    following = miner.roll.at(checkpoints.after)
    late = []
    with contextlib.suppress(EngineError):  # a batch may end so; what it had yielded by then counts
        late += [(requests[one.index], one.completion) for one in batch]
    wanted = checkpoints.oracle.tokens(checkpoints.before.digest.hex(), requests)
    for request, completion in (*drawn, *late):
        assert completion.tokens == wanted[requests.index(request)]
    assert prepared.manifest == checkpoints.before
    assert following.manifest == checkpoints.after


def test_somebody_else_who_rolls_the_engine_while_rows_are_drawn_ends_the_batch(
    miner: Miner, double: EngineDouble, checkpoints: Checkpoints
) -> None:
    prepared = miner.roll.at(checkpoints.before)
    requests = miner.requests()
    begun = double.engine.steps
    double.engine.hold(3)
    batch = iter(miner.generator.generate(requests, lambda: False))

    def meddle() -> None:
        double.engine.until(lambda: double.engine.steps == begun + 3)
        double.engine.load(checkpoints.source.materialise(checkpoints.after))
        double.engine.relabel(checkpoints.after.digest.hex())
        double.engine.run_freely()

    other = threading.Thread(target=meddle)
    other.start()
    drawn = []
    with pytest.raises(EngineError):
        drawn += [(requests[one.index], one.completion) for one in batch]
    other.join()
    assert miner.generator.version is None
    miner.keep(prepared, drawn)
    assert miner.mine(checkpoints.after) == len(PROMPTS)
    assert mixed(miner, checkpoints.oracle) == []


@pytest.mark.heavy
@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(kind) for kind in ("dies_in_update", "update_torn", "update_then_error")),
        *(Fault("dies", on=on) for on in ("pause", "resume", "info")),
        Fault("dies_in_generation", after=len(PROMPTS), tokens=3),
        Fault("out_of_memory", after=1, times=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.on}",
)
def test_a_server_of_ours_that_dies_in_a_roll_is_started_again_and_draws_with_what_was_asked_for(
    fault: Fault, flavour: Flavour, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """A real process with a real watcher; after its death both checkpoints are mined with, and every row is right."""
    faults = [fault, Fault("dies_in_update", after=1)] if fault.kind == "out_of_memory" else [fault]
    python = pose(tmp_path / "engine", faults)
    options = EngineOptions(
        flavour, python=python, max_model_len=512, max_concurrent=len(PROMPTS), dtype="float32", state_dir=tmp_path / "state"
    )
    folders = EngineFolders(tmp_path / "weights")

    def client(url: str, key: str) -> RemoteGenerator:
        return CLIENTS[flavour](url, options, numerics_class="double", api_key=key, retry_s=0.001)

    restarts = Restarts(most=6, first_s=0.0, longest_s=0.0)
    generator = SupervisedGenerator(
        options, client, numerics_class="double", server=EngineServer(options), folders=folders, restarts=restarts
    )
    miner = Miner(checkpoints, generator, folders)
    try:
        for manifest in (checkpoints.before, checkpoints.after, checkpoints.before):
            assert miner.mine(manifest) == len(PROMPTS)
    finally:
        miner.close()
    assert mixed(miner, checkpoints.oracle) == []
