"""From settings to what really generates and proves: each variable changes what it says, and engine and prover agree."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.generation.base import GenerationRequest, ServedWeights
from grail_core.generation.launch import launch
from grail_core.generation.options import EngineOptions, require_model_len
from grail_core.generation.rows import make_rows
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings, declarations, load_settings
from grail_core.proof.sketches import projections
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, MAX_PROMPT_TOKENS
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.types import Window
from grail_miner.doctor.engine import model_size
from grail_miner.equipment import Equipment, engine_options, equipped, make_prover, require_room
from grail_miner.layout import Layout, plan
from grail_miner.limits import MiningLimits
from grail_miner.mining import Mining
from grail_miner.proving.processes import ProcessProver
from tooling import REPOSITORY
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.process import pose
from tooling.testing.engine_double.setup import Flavour
from tooling.testing.network import FIRST_WINDOW, Network


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


@dataclasses.dataclass(frozen=True)
class Came:
    """What came of some settings on a machine with eight GPUs."""

    settings: Settings
    layout: Layout
    options: EngineOptions
    command: tuple[str, ...]

    def flag(self, name: str) -> str | None:
        """What stands behind a flag of the server's command line; "" for a switch."""
        if name not in self.command:
            return None
        following = self.command[self.command.index(name) + 1 :][:1]
        return "" if not following or following[0].startswith("--") else following[0]


def came(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **given: str) -> Came:
    """`given` by the names of the environment; GRAIL_SGLANG_PYTHON and GRAIL_VLLM_PYTHON are there unless they are given."""
    python = tmp_path / "python"
    python.touch()
    with monkeypatch.context() as patched:
        for name, value in ({"GRAIL_SGLANG_PYTHON": str(python), "GRAIL_VLLM_PYTHON": str(python)} | given).items():
            patched.setenv(name, value)
        settings = load_settings()
    layout = plan(settings, 8)
    options = engine_options(settings, layout, tmp_path / "state")
    weights = ServedWeights("0" * 64, tmp_path, GenerationPolicy(64), frozenset({1}), 300, 40_960)
    command: tuple[str, ...] = ()
    if options.backend != "hf" and options.url is None:
        command = launch(options, weights, 30_000, api_key="k-1", scratch=tmp_path, own={}).command
    return Came(settings, layout, options, command)


def python_of(one: Came) -> str:
    return Path(one.command[0]).name


CHANGES: dict[str, tuple[dict[str, str], str, Callable[[Came], Any], Any, Any]] = {
    # variable: (what else is set, its value, what it changes, as it is without it, as it is with it)
    "GRAIL_PIPELINE_BACKEND": ({}, "vllm", lambda c: "vllm.entrypoints.cli.main" in c.command, False, True),
    "GRAIL_SGLANG_PYTHON": ({}, "other", python_of, "python", "other"),
    "GRAIL_VLLM_PYTHON": ({"GRAIL_PIPELINE_BACKEND": "vllm"}, "other", python_of, "python", "other"),
    "GRAIL_SGLANG_URL": (
        {"GRAIL_SGLANG_PYTHON": ""},
        "http://127.0.0.1:30000",
        lambda c: (c.options.url, c.options.gpus),
        None,
        ("http://127.0.0.1:30000", ()),
    ),
    "GRAIL_VLLM_URL": (
        {"GRAIL_VLLM_PYTHON": "", "GRAIL_PIPELINE_BACKEND": "vllm"},
        "http://127.0.0.1:8000",
        lambda c: (c.options.url, c.options.gpus),
        None,
        ("http://127.0.0.1:8000", ()),
    ),
    "GRAIL_PIPELINE_VLLM_GPU": ({}, "3", lambda c: c.options.gpus, (0,), (3,)),
    "GRAIL_PIPELINE_VLLM_TP": (
        {"GRAIL_PIPELINE_PROOF_GPU": "7"},
        "4",
        lambda c: (c.options.gpus, c.flag("--tp-size")),
        ((0,), "1"),
        ((0, 1, 2, 3), "4"),
    ),
    "GRAIL_PIPELINE_PROOF_GPU": ({}, "5", lambda c: c.layout.workers.devices, ("cuda:1",), ("cuda:5",)),
    "GRAIL_PIPELINE_PROOF_GPU_IDS": ({}, "6,7", lambda c: c.layout.workers.devices, ("cuda:1",), ("cuda:6", "cuda:7")),
    "GRAIL_PIPELINE_PROOF_WORKERS": ({}, "2", lambda c: c.layout.workers.devices, ("cuda:1",), ("cuda:1", "cuda:1")),
    "GRAIL_PIPELINE_PROOF_SUBPROCESS": ({}, "true", lambda c: c.layout.workers.kind, "in process", "processes"),
    "GRAIL_PIPELINE_GROUPS_PER_BATCH": ({}, "3", lambda c: c.settings.pipeline_groups_per_batch, 8, 3),
    "GRAIL_PIPELINE_MAX_MODEL_LEN": (
        {"GRAIL_PIPELINE_BACKEND": "vllm"},
        "9000",
        lambda c: c.flag("--max-model-len"),
        "12288",
        "9000",
    ),
    "GRAIL_PIPELINE_GPU_MEM_UTIL": ({}, "0.55", lambda c: c.flag("--mem-fraction-static"), "0.9", "0.55"),
    "GRAIL_PIPELINE_MAX_NUM_SEQS": ({}, "128", lambda c: c.flag("--max-running-requests"), "64", "128"),
    "GRAIL_PIPELINE_MAX_CONCURRENT": ({}, "96", lambda c: c.options.max_concurrent, 48, 96),
    "GRAIL_PIPELINE_DISABLE_CUDA_GRAPH": ({}, "true", lambda c: c.flag("--cuda-graph-backend-decode"), None, "disabled"),
    "GRAIL_PIPELINE_DETERMINISTIC": ({}, "true", lambda c: c.flag("--enable-deterministic-inference"), None, ""),
    "GRAIL_PIPELINE_SYMLINK_DIR": ({}, "links", lambda c: c.options.state_dir and c.options.state_dir.name, "engine", "links"),
}
REFUSED = {"GRAIL_PIPELINE_PROOF_FLASH_ATTN"}


@pytest.mark.parametrize("variable", CHANGES)
def test_a_variable_changes_what_it_says(variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside, value, what, without, changed = CHANGES[variable]
    if value == "other":
        (tmp_path / "other").touch()
        value = str(tmp_path / "other")
    plain = None if without is None and "URL" in variable else what(came(monkeypatch, tmp_path, **beside))
    assert plain == without
    assert what(came(monkeypatch, tmp_path, **beside, **{variable: value})) == changed


def test_every_variable_of_the_pipeline_is_tried_and_has_its_entry_in_the_miners_page() -> None:
    names = {one.name for one in declarations() if one.name.startswith(("GRAIL_PIPELINE_", "GRAIL_SGLANG_", "GRAIL_VLLM_"))}
    assert names == CHANGES.keys() | REFUSED
    page = (REPOSITORY / "docs/miner.md").read_text(encoding="utf-8")
    assert {name for name in names if f"| `{name}` |" not in page} == set()


def test_the_longest_row_of_the_protocol_fits_into_either_engine_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = GenerationPolicy(MAX_NEW_TOKENS_PROTOCOL_CAP)
    weights = ServedWeights("0" * 64, tmp_path, policy, frozenset({1}), 300, 131_072)
    longest = GenerationRequest((7,) * MAX_PROMPT_TOKENS, 1)
    for backend, generator in (("sglang", SglangGenerator), ("vllm", VllmGenerator)):
        here = came(monkeypatch, tmp_path, GRAIL_PIPELINE_BACKEND=backend)
        require_model_len(here.settings.pipeline_max_model_len, policy, weights.context_length)
        rows = make_rows([longest], weights, here.options.max_model_len, generator.spare_tokens)
        assert rows[0].limit == MAX_NEW_TOKENS_PROTOCOL_CAP


def test_the_pages_default_of_groups_at_a_time_is_the_one_that_a_librarys_caller_has() -> None:
    assert load_settings().pipeline_groups_per_batch == MiningLimits().groups_per_batch


def test_an_engine_that_is_nowhere_is_named_with_how_to_have_it(tmp_path: Path) -> None:
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="not installed in the miner's own environment") as refused:
        engine_options(settings, plan(settings, 2), tmp_path)
    assert "GRAIL_SGLANG_PYTHON=" in refused.value.hint
    settings = load_settings(sglang_python=tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="no such interpreter"):
        engine_options(settings, plan(settings, 2), tmp_path)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "InProcessProver"),
        ({"pipeline_proof_workers": 2}, "ThreadProver"),
        ({"pipeline_proof_workers": 2, "pipeline_proof_subprocess": True}, "ProcessProver"),
    ],
)
def test_the_prover_is_of_the_kind_and_size_that_the_layout_says(given: dict[str, Any], kind: str) -> None:
    layout = plan(load_settings(**given), 0)
    prover = make_prover(layout)
    try:
        assert type(prover).__name__ == kind
        assert prover.slots == len(layout.workers.devices)
        assert prover.proof_class == "bf16-sdpa-cpu-transformers"
    finally:
        prover.close()


# --- with an engine's server, as its HTTP interface is -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    made = Network(tmp_path_factory.mktemp("network"), miners=1, validators=0)
    made.advance_to(FIRST_WINDOW + 5)
    classes = (*made.params.generation_classes, "bf16-flash-cuda-sglang", "bf16-flash-cuda-vllm")
    made.params = dataclasses.replace(made.params, generation_classes=classes)
    return made


def with_classes_of_engines(network: Network) -> Participant:
    """The same network, which it is to its checkpoint, and which admits what an engine's server computes."""
    plain = dataclasses.replace(network.params, generation_classes=network.params.generation_classes[:-2])
    participant = dataclasses.replace(network.participant("miner-0"), params=plain)
    _ = participant.network_id, participant.checkpoints  # of the parameters that the checkpoint was signed for
    object.__setattr__(participant, "params", network.params)
    return participant


def drawn(equipment: Equipment, network: Network) -> list[tuple[int, ...]]:
    """Four completions of the network's checkpoint, which generator and prover both have."""
    manifest = network.manifest
    mining = Mining(network.signers["miner-0"], equipment.checkpoints, network.environment_of)
    mining.generator, mining.prover = equipment.generator, equipment.prover
    prepared = mining.served(mining.checkpoint.at(manifest))
    assert prepared.manifest == manifest
    assert equipment.generator.version == manifest.digest.hex()
    requests = [GenerationRequest((10, 20, 30 + row), 1000 + row) for row in range(4)]
    found = {one.index: one.completion.tokens for one in equipment.generator.generate(requests, lambda: False)}
    rows = [(*request.prompt, *found[index]) for index, request in enumerate(requests)]
    signs = projections(Randomness(bytes(32)), bytes(32), prepared.description.hidden_size)
    proofs = equipment.prover.prove(rows, [3] * 4, signs)
    assert [len(proof.logprobs) for proof in proofs] == [len(found[index]) for index in range(4)]
    return [found[index] for index in range(4)]


@pytest.fixture(scope="module")
def expected(network: Network) -> list[tuple[int, ...]]:
    """What `hf` draws in process."""
    settings = load_settings(pipeline_backend="hf", device="cpu")
    with equipped(settings, plan(settings, 0), network.participant("miner-0")) as here:
        return drawn(here, network)


@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_somebody_elses_server_and_the_prover_are_brought_to_one_checkpoint_and_draw_as_hf_does(
    backend: Flavour, network: Network, expected: list[tuple[int, ...]], tmp_path: Path
) -> None:
    participant = dataclasses.replace(with_classes_of_engines(network), state_dir=tmp_path)
    with EngineDouble.of(backend, network.root / "model", dtype="bfloat16") as server:
        settings = load_settings(**{"pipeline_backend": backend, f"{backend}_url": server.url})
        with equipped(settings, plan(settings, 0), participant) as there:
            assert there.generator.numerics_class == f"bf16-flash-cuda-{backend}"
            assert there.prover.proof_class == "bf16-sdpa-cpu-transformers"
            assert drawn(there, network) == expected
    assert all(not thread.name.startswith("checkpoint-ahead") for thread in threading.enumerate())


@pytest.mark.heavy
def test_a_server_of_ours_is_started_from_the_interpreter_that_is_set_and_ends_with_the_miner(
    network: Network, expected: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """With a proof worker in a process of its own beside it."""
    links = tmp_path / "links"
    settings = load_settings(
        pipeline_backend="sglang",
        sglang_python=pose(tmp_path / "engine"),
        device="cpu",
        pipeline_proof_subprocess=True,
        pipeline_symlink_dir=links,
    )
    participant = dataclasses.replace(with_classes_of_engines(network), state_dir=tmp_path)
    layout = plan(settings, 1)
    assert (layout.generation_gpus, layout.workers.devices) == ((0,), ("cpu",)), "the double takes a GPU's flags, and no GPU"
    with equipped(settings, layout, participant) as there:
        assert drawn(there, network) == expected
        assert (links / "weights" / "current").resolve().name
        assert isinstance(there.prover, ProcessProver)
        children = there.prover.pids
    assert children
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_class_that_the_network_does_not_admit_ends_the_start_with_the_list(network: Network) -> None:
    plain = dataclasses.replace(network.params, generation_classes=network.params.generation_classes[:-2])
    participant = dataclasses.replace(network.participant("miner-0"), params=plain)
    settings = load_settings(pipeline_backend="sglang", sglang_url="http://127.0.0.1:9")
    with (
        pytest.raises(ConfigurationError, match="bf16-flash-cuda-sglang") as refused,
        equipped(settings, plan(settings, 0), participant),
    ):
        pass
    assert refused.value.where == "GRAIL_PIPELINE_BACKEND"
    assert "admitted generation classes: bf16-sdpa-cpu-transformers" in refused.value.hint


def test_an_engine_without_room_for_the_policy_is_refused_at_the_start_with_the_least_value(tmp_path: Path) -> None:
    network = Network(tmp_path, miners=1, validators=0, max_tokens=8)
    participant = network.participant("miner-0")
    assert participant.current_window() < Window(FIRST_WINDOW)
    require_room(participant, 2)  # no checkpoint is valid yet
    network.advance_to(FIRST_WINDOW + 5)
    least = min(model_size(network.root / "model").context_length, 4096 + 8)
    with pytest.raises(ProtocolViolationError, match="room for 2 tokens") as refused:
        require_room(participant, 2)
    assert f"set it to {least} or more" in refused.value.hint
    require_room(participant, least)
    with pytest.raises(ProtocolViolationError):
        require_room(participant, least - 1)
