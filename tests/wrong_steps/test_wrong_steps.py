"""Every wrong step ends with one message, which says what, where and what to try, with its exit code and without a traceback.

The tables beside this file are the steps. Most are taken in this process, through the command's own `main`; none may be silent
for longer than `MOST_SECONDS`, which is no measurement: a step that hangs fails.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wrong_steps import with_files, with_keys, with_settings
from tests.wrong_steps.steps import Place, Step, made_network, right_settings
from tooling.testing.network import Network

MOST_SECONDS = 30
MAINS = {
    "grail": "grail_core.commands.grail",
    "grail-envs": "grail_envs.cli",
    "grail-miner": "grail_miner.cli",
    "grail-trainer": "grail_trainer.cli",
    "grail-validator": "grail_validator.cli",
}
STEPS = [*with_settings.STEPS, *with_keys.STEPS, *with_files.STEPS]
OURS = ("GRAIL_", "BT_", "R2_", "NETUID")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return made_network(tmp_path_factory.mktemp("network"))


@pytest.fixture
def place(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Place(network, tmp_path, right_settings(network, tmp_path))


@pytest.fixture(autouse=True)
def _nothing_hangs() -> Iterator[None]:
    """Nor does a command's logging outlive it."""

    def late(*_: object) -> None:
        raise TimeoutError(f"nothing was said for {MOST_SECONDS} s")

    handlers, before = list(logging.getLogger().handlers), signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    logging.getLogger().handlers[:] = handlers


def taken(step: Step, place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[object, str]:
    """Exit code, and everything that was printed."""
    if "model" in shlex.split(step.command):
        shutil.copytree(place.network.root / "model", place.folder / "model")
    place.of(step.role)
    place.settings |= step.changed
    if step.before is not None:
        step.before(place)
    for name, value in place.settings.items():
        if value:
            monkeypatch.setenv(name, value)
    arguments = shlex.split(step.command)
    monkeypatch.setattr(sys, "argv", arguments)
    out, code = io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            importlib.import_module(MAINS[arguments[0]]).main()
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name.replace(" ", "-"))
def test_a_wrong_step_ends_with_one_message_and_its_exit_code(
    step: Step, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = taken(step, place, monkeypatch)
    assert code == step.code, said
    assert "Traceback" not in said
    assert [words for words in step.says if words not in said] == [], said
    if code not in (0, 2):
        assert said.count("error: ") == 1, said
        assert "\n  where: " in said
        assert "\n  try:   " in said, said


@pytest.mark.parametrize(("command", "role"), [("grail-miner run", "miner-0"), ("grail-validator run", "validator-0")])
def test_a_start_in_another_network_commits_no_bucket(
    command: str, role: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def committed() -> list[str | None]:
        chain = place.network.chain
        place.network.advance_to(chain.current_block() + 3)  # by then everything that was asked for is in force
        return [neuron.commitment for neuron in chain.metagraph().neurons]

    def another_network(place: Place) -> None:
        place.network_file(trainer_hotkey="07" * 32)

    before = committed()
    step = Step("", command, 3, (), {"GRAIL_STORAGE_BUCKET": "bucket-new"}, before=another_network, role=role)
    code, said = taken(step, place, monkeypatch)
    assert code == step.code, said
    assert "not registered on this subnet" in said
    assert committed() == before


def test_there_are_sixty_of_them_and_no_two_have_one_name() -> None:
    from tests.wrong_steps.test_wrong_processes import NAMES

    names = [step.name for step in STEPS] + NAMES
    assert len(set(names)) == len(names) >= 60
