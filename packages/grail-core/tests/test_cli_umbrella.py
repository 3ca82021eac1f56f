"""`grail` answers quickly, finds the roles, and ends every failure with one message and its exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from grail_core.chain.development.local import LocalChain
from grail_core.commands.grail import cli
from grail_core.commands.options import run_cli, stop_on_signals
from grail_core.errors import ConfigurationError, GrailError
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Hotkey

HEAVY = {"torch", "transformers", "pyarrow", "bittensor", "boto3", "httpx", "pydantic", "numpy"}


def grail(
    *arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_", "R2_", "NETUID"))}
    command = [sys.executable, "-c", "from grail_core.commands.grail import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept | (environment or {}), cwd=cwd)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, grail_core.commands.grail as c; c.cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.splitlines()[-1].split()}
    assert not loaded & HEAVY


@pytest.mark.parametrize("command", ["mine", "validate", "train"])
def test_a_role_that_is_not_installed_is_told_with_the_line_that_installs_it(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grail_core.commands.grail.entry_points", lambda **_: ())
    with pytest.raises(ConfigurationError) as caught:
        cli.main([command], standalone_mode=False)
    assert caught.value.hint.startswith("pip install grail-")


def test_a_role_that_is_installed_gets_every_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Entry:
        def load(self) -> object:
            return lambda: seen.append(list(sys.argv))

    monkeypatch.setattr("grail_core.commands.grail.entry_points", lambda **_: (Entry(),))
    monkeypatch.setattr(sys, "argv", ["grail"])
    cli.main(["mine", "--windows", "2", "--help", "-v"], standalone_mode=False)
    assert seen == [["grail-miner", "run", "--windows", "2", "--help", "-v"]]


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (["-vv", "mine", "--batch", "2"], ["-v", "-v", "--batch", "2"]),
        (["mine", "-vv"], ["-vv"]),
        (["-v", "mine", "-v"], ["-v", "-v"]),
    ],
)
def test_v_means_the_same_before_a_commands_name_and_after_it(
    given: list[str], got: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    class Entry:
        def load(self) -> object:
            return lambda: seen.append(list(sys.argv))

    monkeypatch.setattr("grail_core.commands.grail.entry_points", lambda **_: (Entry(),))
    monkeypatch.setattr(sys, "argv", ["grail"])
    cli.main(given, standalone_mode=False)
    assert seen == [["grail-miner", "run", *got]]


@pytest.mark.parametrize("given", ["-vv storage doctor", "storage -v doctor -v", "storage doctor -vv"])
def test_v_reaches_a_command_from_every_group_above_it(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up: list[int] = []
    monkeypatch.setattr("grail_core.telemetry.configure", lambda role, *, verbosity, **_: set_up.append(verbosity))
    monkeypatch.setenv("GRAIL_NETWORK", "atlantis")
    monkeypatch.setenv("BT_NETWORK", "local")
    with pytest.raises(ConfigurationError):
        cli.main(given.split(), standalone_mode=False)
    assert set_up == [2]


def test_warnings_and_settings_are_shown_together_and_a_bad_file_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GRAIL_NETWROK=x\nNETUID=7\nR2_WRITE_SECRET_ACCESS_KEY=hidden\n")
    shown = grail("storage", "doctor", "--show-settings", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (
        0,
        "warning: .env, line 1: no setting is called GRAIL_NETWROK; did you mean GRAIL_NETWORK?\n",
    )
    assert re.search(r"^NETUID +7 +\.env, line 2$", shown.stdout, re.MULTILINE)
    assert "hidden" not in shown.stdout
    (tmp_path / ".env").write_text("NETUID: 7\n")
    ended = grail("storage", "doctor", "--json", cwd=tmp_path)
    assert ended.returncode == 3
    assert json.loads(ended.stderr) == {
        "error": "ConfigurationError",
        "what": "NETUID is followed by a colon, not by =",
        "where": ".env, line 1",
        "hint": "write NETUID=value",
    }


def deployment(folder: Path) -> dict[str, str]:
    """A local network with a chain, parameters and a bucket called alice."""
    LocalChain.create(folder / "chain.sqlite", seed=1)
    params = dataclasses.replace(LOCALNET, trainer_hotkey=Hotkey(bytes([7]) * 32))
    (folder / "network.json").write_text(json.dumps(params.to_json()))
    return {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(folder / "chain.sqlite"),
        "GRAIL_NETWORK": str(folder / "network.json"),
        "GRAIL_STORAGE_ROOT": str(folder),
        "GRAIL_STORAGE_BUCKET": "alice",
    }


def test_storage_doctor_tries_the_bucket_and_shows_what_it_holds(tmp_path: Path) -> None:
    environment = deployment(tmp_path)
    (tmp_path / "alice" / "grail" / "windows").mkdir(parents=True)
    (tmp_path / "alice" / "grail" / "windows" / "file").write_bytes(bytes(1000))
    ran = grail("storage", "doctor", "--json", environment=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    value = json.loads(ran.stdout)
    assert {check["name"]: check["ok"] for check in value["checks"]} == dict.fromkeys(
        ["write", "store clock", "conditional write", "pinned read", "read by others", "remove", "list", "on chain"], True
    )
    assert value["checks"][-1]["detail"].startswith("not asked: there is no such wallet")
    assert not value["checks"][-1]["asked"]
    assert value["usage"] == [{"prefix": "grail/windows", "objects": 1, "bytes": 1000}]
    readable = grail("storage", "doctor", environment=environment, cwd=tmp_path)
    assert "grail/windows" in readable.stdout


def test_storage_doctor_ends_with_5_where_the_bucket_cannot_be_written(tmp_path: Path) -> None:
    environment = deployment(tmp_path)
    (tmp_path / "alice").write_text("a file, no folder")
    ran = grail("storage", "doctor", environment=environment, cwd=tmp_path)
    assert ran.returncode == 5
    assert "BROKEN" in ran.stdout
    assert str(tmp_path / "alice") in ran.stdout


def test_an_error_says_what_where_and_what_to_try_and_an_unknown_name_is_warned_of(tmp_path: Path) -> None:
    environment = deployment(tmp_path) | {"GRAIL_NETWORK": "atlantis"}
    ran = grail("storage", "doctor", environment=environment | {"GRAIL_NETWROK": "x"}, cwd=tmp_path)
    assert ran.returncode == ConfigurationError.exit_code == 3
    assert "error: there is no network of this name" in ran.stderr
    assert "where: GRAIL_NETWORK" in ran.stderr
    assert "try:" in ran.stderr
    assert "did you mean GRAIL_NETWORK?" in ran.stderr
    assert "Traceback" not in ran.stderr
    as_json = grail("storage", "doctor", "--json", environment=environment, cwd=tmp_path)
    assert json.loads(as_json.stderr)["where"] == "GRAIL_NETWORK"


def test_wrong_usage_ends_with_2() -> None:
    ran = grail("storage", "cure")
    assert (ran.returncode, "No such command" in ran.stderr) == (2, True)


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (click.Abort(), 130), (ConfigurationError("x"), 3), (GrailError("x"), 1)]
)
def test_exit_codes_are_those_that_are_documented(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise raised

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as caught:
        run_cli(failing)
    assert caught.value.code == code


def test_the_first_signal_asks_to_stop_and_the_second_ends_the_process() -> None:
    code = (
        "import os, signal\nfrom grail_core.commands.options import stop_on_signals\n"
        "with stop_on_signals() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    assert stop.wait(5)\n    print('asked', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print('not reached')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (130, "asked\n")
    with stop_on_signals() as stop:
        assert not stop.is_set()


def test_every_error_class_has_its_own_exit_code() -> None:
    def below(cls: type[GrailError]) -> list[type[GrailError]]:
        return [cls, *(deeper for sub in cls.__subclasses__() for deeper in below(sub))]

    documented = [cls for cls in below(GrailError) if "exit_code" in vars(cls)]
    codes = [cls.exit_code for cls in documented]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 130} & set(codes)
