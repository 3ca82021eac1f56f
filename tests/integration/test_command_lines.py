"""Every command's help tells the defaults that run: those of the dataclass which its options fill."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from grail_core.commands.development_beacon import command as development_beacon
from grail_core.commands.grail import cli as grail
from grail_core.errors import ConfigurationError
from grail_core.participant.knobs import MAX_WHOLE_NUMBER, knobs_of
from grail_core.protocol.reading import MAX_JSON_INTEGER
from grail_envs.cli import main as envs
from grail_miner.cli import cli as miner
from grail_miner.limits import MiningLimits
from grail_trainer.cli import cli as trainer
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_validator.cli import cli as validator
from grail_validator.compared_models import ComparedModels
from tooling.adversaries.cheating_miner import cli as cheating_miner
from tooling.localnet.cli import cli as localnet
from tooling.studies.learning_curves.__main__ import main as learning_curves

ROOTS: dict[str, click.Command] = {
    "grail": grail,
    "grail-miner": miner,
    "grail-validator": validator,
    "grail-trainer": trainer,
    "development_beacon": development_beacon,
    "cheating_miner": cheating_miner,
    "learn": learning_curves,
    "localnet": localnet,
    "grail-envs": envs,
}
FILLED: dict[str, tuple[type, ...]] = {
    "grail-miner run": (MiningLimits,),
    "cheating_miner": (MiningLimits,),
    "grail-validator run": (ComparedModels,),
    "grail-trainer run": tuple(section.__class__ for section in vars(HyperParameters()).values()),
    "learn": (GrpoSettings, OptimiserSettings),
}


def commands() -> Iterator[tuple[str, click.Command]]:
    def below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for name, member in command.commands.items():
                yield from below(f"{path} {name}", member)
        else:
            yield path, command

    for name, root in ROOTS.items():
        yield from below(name, root)


COMMANDS = dict(commands())


def options(command: click.Command) -> dict[str, click.Option]:
    return {str(one.name): one for one in command.params if isinstance(one, click.Option)}


def told(command: click.Command, option: click.Option) -> str:
    """The default in this option's help, "" where none is told."""
    record = option.get_help_record(click.Context(command))
    found = re.search(r"\[(?:.*; )?default: (.*?)(?:;[^\]]*)?\]$", record[1] if record else "")
    return found[1] if found else ""


@pytest.mark.parametrize("path", COMMANDS)
def test_help_tells_the_default_of_every_option_that_has_one(path: str) -> None:
    command = COMMANDS[path]
    context = click.Context(command)
    for name, option in options(command).items():
        default = option.get_default(context)
        if isinstance(default, int | float | str | tuple) and default != () and not option.count and default is not False:
            words = ", ".join(default) if isinstance(default, tuple) else str(default)
            expected = option.opts[0].removeprefix("--") if default is True else words
            assert told(command, option) == expected, f"{path} {name}"
        else:
            assert "[default" not in str(option.help), f"{path} {name}: a default in words beside none"


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, kinds in FILLED.items() for kind in kinds])
def test_an_options_default_bounds_and_help_are_those_of_the_dataclass_it_fills(path: str, kind: type) -> None:
    command = COMMANDS[path]
    shared = options(command).keys() & knobs_of(kind).keys()
    assert shared
    for name in shared:
        option = options(command)[name]
        knob, default = knobs_of(kind)[name]
        assert (option.get_default(click.Context(command)), option.help) == (default, knob.about)
        assert default == getattr(kind(), name)
        if isinstance(option.type, click.IntRange | click.FloatRange):
            least = knob.above if knob.least is None else knob.least
            assert (option.type.min, option.type.max) == (least, knob.most)


@pytest.mark.parametrize("root", ["grail-miner", "grail-validator", "grail-trainer"])
def test_v_before_run_is_v_after_it(root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAIL_NETWORK", "atlantis")
    needed = ["--model", "m"] if root == "grail-trainer" else []
    seen: list[int] = []
    monkeypatch.setattr("grail_core.telemetry.configure", lambda role, *, verbosity, **_: seen.append(verbosity))
    for arguments in (["-vv", "run", *needed], ["run", *needed, "-vv"], ["-v", "run", "-v", *needed]):
        ended = CliRunner().invoke(ROOTS[root], arguments)
        assert isinstance(ended.exception, ConfigurationError)
    assert seen == [2, 2, 2]


def test_flags_keep_their_names() -> None:
    def flags(path: str) -> set[str]:
        return {flag for option in options(COMMANDS[path]).values() for flag in (*option.opts, *option.secondary_opts)}

    assert {"--groups", "--batch", "--windows"} <= flags("grail-miner run")
    comparing = {"--alternatives", "--rounded-copies", "--no-rounded-copies", "--comparison-memory-gib"}
    assert comparing <= flags("grail-validator run")
    assert {"--learning-rate", "--epochs", "--loss", "--advantages", "--kl-coefficient", "--most-groups", "--seed"} <= flags(
        "grail-trainer run"
    )


@pytest.mark.parametrize("arguments", [["--alternatives-share", "0.5"], ["--no-eight-bit"]])
def test_an_option_that_is_gone_is_wrong_usage(arguments: list[str]) -> None:
    """What is compared is the network's to say now; who narrowed it by such an option is told, and not passed over."""
    ended = CliRunner().invoke(validator, ["run", *arguments])
    assert ended.exit_code == 2
    assert "No such option" in ended.output


@pytest.mark.parametrize("arguments", [["--learning-rate", "nan"], ["--kl-coefficient", "inf"], ["--epochs", "0"]])
def test_a_number_that_is_none_or_out_of_bounds_is_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(trainer, ["run", "--model", "m", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (OptimiserSettings, {"learning_rate": float("nan")}),
        (GrpoSettings, {"epochs": 0}),
        (ComparedModels, {"memory_gib": -1.0}),
        (ComparedModels, {"earlier": 4}),
        (MiningLimits, {"max_groups": 1251}),
    ],
)
def test_a_librarys_caller_meets_the_same_bounds(kind: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        kind(**wrong)


def test_a_knob_holds_no_whole_number_that_a_signed_object_could_not() -> None:
    assert MAX_WHOLE_NUMBER == MAX_JSON_INTEGER
