"""`calibrate --work gradient`: honest replays by the real loop and the real test; figures, and no more than figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grail_core.errors import ConfigurationError
from grail_core.proof.replay import SHIPPED
from grail_envs.corpus.bytes_1 import Bytes1
from grail_trainer.tiny.gradient_model import create
from grail_validator.cli import cli
from grail_validator.gradient.calibrating import LEAST_REPLAYS, ReplayFigures, Way, measure_replays
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_specs import TINY

SPEC = replace(TINY, inner_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    create(folder, 0)
    return folder


def test_honest_replays_lie_far_below_the_bound_in_every_way(folder: Path) -> None:
    found = measure_replays(folder, SPEC, 0, Bytes1(), 4)
    assert found.replays == 4
    assert {way.name for way in found.ways} == {"as the miner", "one sequence a pass", "eager attention"}
    assert all(max(way.values) < 0.01 for way in found.ways)
    assert found.arithmetic == 0
    assert max(found.ways[1].values) > 0, "other micro-batches round otherwise"
    assert not found.enforceable, "four replays decide nothing"
    json.dumps(found.to_json())
    assert any("decide nothing" in line for line in found.lines())


def test_one_step_of_sgd_is_calibrated_too(folder: Path) -> None:
    spec = replace(SPEC, optimiser="sgd", inner_steps=1, commit="ends", learning_rates=((0, 40_000_000),))
    found = measure_replays(folder, spec, 0, Bytes1(), 2)
    assert found.replays == 2
    assert all(max(way.values) < 0.01 for way in found.ways)


def figures(values: tuple[float, ...], *, parameters: int = SHIPPED.parameters, arithmetic: int = 0) -> ReplayFigures:
    ways = (Way("a", values), Way("b", tuple(1.1 * value for value in values)))
    return ReplayFigures(parameters, "fp32", ways, arithmetic)


def test_what_could_be_enforced_follows_from_tail_number_and_arithmetic() -> None:
    tight = tuple(1e-3 * (1 + (i % 7) / 10) for i in range(LEAST_REPLAYS))
    assert figures(tight).enforceable
    assert figures(tight).threshold > 1.1 * max(tight), "a fitted tail lies beyond what was seen"
    assert not figures(tight[1:]).enforceable
    assert not figures(tight, arithmetic=1).enforceable
    wide = tuple(1e-3 * 10 ** (i % 4 / 2) for i in range(LEAST_REPLAYS))
    assert max(wide) < SHIPPED.gradient / 2
    assert not figures(wide).enforceable
    assert any("could not be enforced" in line for line in figures(wide).lines())
    assert any("reported alone" in line for line in figures(tight, parameters=SHIPPED.parameters + 1).lines())


def test_a_single_replay_has_no_spread(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="two replays"):
        measure_replays(folder, SPEC, 0, Bytes1(), 1)


def test_the_command_calibrates_one_checkpoint_of_gradient_work_and_tables_need_a_name(tmp_path: Path) -> None:
    network = GradientNetwork(tmp_path / "network", SPEC, miners=0, validators=0)
    model = network.participant("trainer").checkpoints.materialise(network.manifest)
    parameters = tmp_path / "network.json"
    parameters.write_text(json.dumps(network.params.to_json()), encoding="utf-8")
    environment = {"GRAIL_NETWORK": str(parameters), "GRAIL_CACHE_DIR": str(tmp_path)}

    def run(*options: str) -> Result:
        return CliRunner().invoke(cli, ["calibrate", "--model", str(model), *options], env=environment)

    done = run("--work", "gradient", "--count", "2", "--out", str(tmp_path / "figures.json"), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert (told["replays"], told["enforced_now"], told["enforceable"]) == (2, True, False)
    assert "a table needs --version and --out" in run("--env", "sat").output
