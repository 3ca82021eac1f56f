"""The learning study: a curve is a function of its run, a run that is done is not run again, and figures say what was run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

import grail_trainer.tiny.warm_start as warm_start
from grail_core.capabilities import Stage
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.sat import SatEnvironment
from grail_envs.sat.teaching import majority_answer
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.tiny.init import create_model
from tooling.studies.learning_curves import runs as runs_module
from tooling.studies.learning_curves.__main__ import main, settings_for
from tooling.studies.learning_curves.curve import Point, Run, curve
from tooling.studies.learning_curves.page import TABLE_BEGINS, TABLE_ENDS, drawing, mean, table, write_page
from tooling.studies.learning_curves.runs import Finished, carry_out, file_of, run_all
from tooling.studies.learning_curves.task import environments_of

RUN = Run("sat", 3, HyperParameters(), windows=2, groups=6, stale=1, problems=16, every=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty warm-start steps: answers have a form, and rewards vary."""
    folder = tmp_path_factory.mktemp("learning") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "stages_for", lambda environment, quick: (Stage(majority_answer, 40, 5e-3, 1e-3),))
        create_model(SatEnvironment(), folder)
    return folder


def test_a_curve_repeats_to_the_bit_and_a_control_run_does_not_move(model: Path) -> None:
    run = dataclasses.replace(RUN, model=str(model))
    first, again = ([dataclasses.replace(point, seconds_train=0.0) for point in curve(run)] for _ in range(2))
    assert first == again
    assert [point.window for point in first] == [0, 1, 2]
    assert all(point.groups > 0 and point.changed_share > 0 for point in first[1:])
    still = dataclasses.replace(run, settings=HyperParameters(optimiser=OptimiserSettings(learning_rate=0.0)))
    assert {(point.success, point.well_formed, point.changed_share) for point in curve(still)} == {
        (first[0].success, first[0].well_formed, 0.0)
    }


def test_a_run_that_is_done_is_not_run_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dataclasses.replace(RUN, model=str(model), windows=1)
    carry_out(run, tmp_path)
    before = file_of(run, tmp_path).read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was run again")

    monkeypatch.setattr(runs_module, "carry_out", refuse)
    seen: list[Finished] = []
    found = run_all([run], tmp_path, jobs=1, told=seen.append)
    assert (found, file_of(run, tmp_path).read_bytes()) == (seen, before)
    file_of(run, tmp_path).write_text("{}")
    with pytest.raises(ConfigurationError, match="not the file of a run"):
        run_all([run], tmp_path, jobs=1)


def test_whatever_a_curve_follows_from_is_in_the_name_of_its_file(tmp_path: Path) -> None:
    update, optimiser = RUN.settings.update, RUN.settings.optimiser
    others = [
        dataclasses.replace(RUN, **change)
        for change in (
            {"task": "game_of_n"},
            {"seed": 4},
            {"windows": 3},
            {"groups": 7},
            {"stale": 2},
            {"problems": 17},
            {"every": 2},
            {"model": "m"},
            {"settings": HyperParameters(update=dataclasses.replace(update, loss="grpo"))},
            {"settings": HyperParameters(update=dataclasses.replace(update, kl_coefficient=0.5))},
            {"settings": HyperParameters(optimiser=dataclasses.replace(optimiser, learning_rate=0.0))},
        )
    ]
    assert {field.name for field in dataclasses.fields(Run)} == set(RUN.to_json())
    assert len({file_of(run, tmp_path) for run in [RUN, *others]}) == 1 + len(others)


def test_errors_are_of_the_mean_over_seeds() -> None:
    assert mean([0.5]).error is None
    assert mean([0.2, 0.4, 0.6]).value == pytest.approx(0.4)
    assert mean([0.2, 0.4, 0.6]).error == pytest.approx(0.2 / math.sqrt(3))
    assert mean([0.2, 0.4, 0.6]).percent() == "40.0 ± 11.5 %"


def finished(loss: str, seed: int, last: float, rate: float = 1e-3) -> Finished:
    settings = HyperParameters(update=GrpoSettings(loss=loss), optimiser=OptimiserSettings(learning_rate=rate))  # type: ignore[arg-type]
    points = (Point(0, 0.2, 0.01, 0.99, 9.0, 0.04), Point(2, last, 0.01, 0.98, 9.0, 0.0, entropy=0.5))
    return Finished(dataclasses.replace(RUN, settings=settings, seed=seed).to_json(), points, 2.0, 1.0)


def test_table_and_drawing_have_every_loss_and_the_control_run(tmp_path: Path) -> None:
    found = [finished("dapo", 0, 0.4), finished("dapo", 1, 0.6), finished("grpo", 0, 0.3), finished("dapo", 0, 0.2, rate=0.0)]
    text = table(found)
    assert "| sat | dapo | 0, 1 | 20.0 ± 0.0 % → 50.0 ± 10.0 % | × 2.50 ± 0.50 |" in text
    assert "| sat | grpo | 0 | 20.0 % → 30.0 % | × 1.50 |" in text
    assert "| sat | learning rate 0 | 0 | 20.0 % → 20.0 % |" in text
    drawn = drawing(found)
    assert all(f">{name}<" in drawn for name in ("dapo (2)", "grpo (1)", "learning rate 0 (1)"))
    page = tmp_path / "learning.md"
    page.write_text(f"before\n{TABLE_BEGINS}\nold\n{TABLE_ENDS}\nafter\n")
    write_page(found, tmp_path)
    assert page.read_text() == f"before\n{TABLE_BEGINS}\n\n{text}\n\n{TABLE_ENDS}\nafter\n"
    assert (tmp_path / "learning-sat.svg").read_text() == drawn
    page.write_text("no place")
    with pytest.raises(ConfigurationError, match="no place for the table"):
        write_page(found, tmp_path)


def test_a_task_is_an_environment_or_a_family_of_puzzles() -> None:
    assert environments_of("sat")[0].spec.env_id == "sat"
    assert environments_of("game_of_n")[0].spec.parameters == {"families": ["game_of_n"]}
    with pytest.raises(EnvironmentUnavailableError):
        environments_of("chess")
    json.dumps(RUN.to_json())


def test_a_tasks_own_settings_give_way_to_the_command_line() -> None:
    def asked(*arguments: str) -> tuple[float, str]:
        with main.make_context("learn", list(arguments)):
            optimiser, update = settings_for("game_of_n", OptimiserSettings(), GrpoSettings())
        return optimiser.learning_rate, update.advantages

    assert asked() == (3e-4, "centred")
    assert asked("--learning-rate", "0.001") == (OptimiserSettings().learning_rate, "centred")
    assert asked("--advantages", "standardised") == (3e-4, "standardised")
