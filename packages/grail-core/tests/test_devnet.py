"""A development network by command: it is whole, goes on after any end, and what it prints is enough for every role."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grail_core.beacon.drand import DrandBeacon
from grail_core.chain.development.local import LocalChain
from grail_core.clock import wall_clock_ms
from grail_core.commands.grail import cli
from grail_core.devnet.folder import DevnetFolder
from grail_core.devnet.network import free_port
from grail_core.devnet.presence import process_of
from grail_core.devnet.settings import written
from grail_core.errors import ConfigurationError, DamagedStateError, GrailError
from grail_core.participant.deployment import require_registered
from grail_core.participant.dotenv import parse
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings, load_settings
from grail_core.participant.state import StateFolder
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Hotkey
from tooling.testing.scripted_server import Answer, ScriptedServer

MANUAL = ("--clock", "manual", "--seed", "07" * 32)


def devnet(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["devnet", *arguments])


def told(*arguments: str) -> Any:
    """What a command that succeeds says with --json."""
    ran = devnet(*arguments, "--json")
    assert ran.exit_code == 0, repr(ran.exception)
    return json.loads(ran.stdout)


def refused(*arguments: str) -> GrailError:
    ran = devnet(*arguments)
    assert isinstance(ran.exception, GrailError), ran.output
    return ran.exception


@pytest.fixture
def made(tmp_path: Path) -> str:
    folder = str(tmp_path / "net")
    told("init", folder, *MANUAL)
    return folder


def test_the_settings_of_every_role_are_enough_to_join_the_network(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    for number, name in enumerate(("trainer", "validator-1", "miner-1"), start=1):
        for field in Settings.model_fields.values():
            monkeypatch.delenv(str(field.alias), raising=False)
        for key, value in told("env", name, "--dir", made).items():
            monkeypatch.setenv(key, value)
        settings = load_settings()
        participant = Participant.from_settings(settings)
        neuron = require_registered(participant.chain, participant.signer, settings)
        assert (neuron.uid, neuron.validator_permit) == (number, name == "validator-1")
        assert (participant.params.trainer_hotkey == participant.signer.hotkey) == (name == "trainer")


def test_the_same_call_again_changes_nothing_and_another_network_is_refused(made: str, tmp_path: Path) -> None:
    before = told("status", "--dir", made)
    assert told("init", made) == before
    assert told("init", made, *MANUAL)["participants"] == before["participants"]
    error = refused("init", made, "--clock", "real", "--miner", "alice", "--seed", "08" * 32)
    assert error.exit_code == 3
    for difference in ("clock was manual, now real", "there is no miner alice", "it has another seed"):
        assert difference in error.what
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "holds no development network (thesis.txt)" in refused("init", str(tmp_path / "mine")).what
    assert "no development network in this folder" in refused("status", "--dir", str(tmp_path / "mine")).what


@pytest.mark.parametrize(
    "line",
    ["making.write_description", "network.make_wallets", "network.make_chain", "making.write_atomically", "network.register"],
)
def test_an_init_that_is_cut_off_anywhere_is_finished_by_the_next_one(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(Exception): ...

    def cut_off(*_: object, **__: object) -> None:
        raise CutOffError

    folder = str(tmp_path / "net")
    with monkeypatch.context() as patched:
        patched.setattr(f"grail_core.devnet.{line}", cut_off)
        assert isinstance(devnet("init", folder, *MANUAL).exception, CutOffError)
    after = told("init", folder, *MANUAL)
    assert [(one["name"], one["uid"], one["permit"]) for one in after["participants"]] == [
        ("burn", 0, False),
        ("trainer", 1, False),
        ("validator-1", 2, True),
        ("miner-1", 3, False),
    ]


def test_on_a_narrow_terminal_status_is_folded_and_in_a_pipe_a_table(made: str) -> None:
    terminal = {"FORCE_COLOR": "1"}
    narrow, wide = (
        CliRunner().invoke(cli, ["devnet", "status", "--dir", made], env=terminal | {"COLUMNS": width}).stdout
        for width in ("60", "120")
    )
    lines = re.sub(r"\x1b\[[0-9;]*m", "", narrow).splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("validator-1: validator, uid 2, stake") for line in lines)
    piped = devnet("status", "--dir", made).output
    assert all("validator-1  validator  2    " in told for told in (wide, piped))


def test_an_init_that_ends_while_it_makes_the_chain_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def split(self, _: str) -> list[str]:
            raise OSError(28, "No space left on device")

    root = tmp_path / "net"
    with monkeypatch.context() as patched:
        patched.setattr("grail_core.chain.development.local.SCHEMA", Full())
        assert devnet("init", str(root), *MANUAL).exit_code != 0
    assert not (root / "chain.sqlite").exists()
    assert len(told("init", str(root), *MANUAL)["participants"]) == 4
    assert not list(root.glob(".*"))


def test_two_inits_at_once_make_one_network_or_one_says_why_it_did_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grail_core.commands.grail", "devnet", "init", str(tmp_path / "net"), "--clock", "manual"]
    both = [
        subprocess.Popen([*command, "--miner", name, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("alice", "bob-1")
    ]
    said = [one.communicate(timeout=120) for one in both]
    assert sorted(one.returncode for one in both) == [0, 3], said
    refusal = next(said[place][1] for place in (0, 1) if both[place].returncode == 3)
    assert "there is no miner" in refusal or "not empty" in refusal
    assert len(told("status", "--dir", str(tmp_path / "net"))["participants"]) == 4


def test_the_seed_is_its_owners_alone_and_no_setting_has_it(made: str) -> None:
    assert os.stat(Path(made) / "seed").st_mode & 0o777 == 0o600
    assert "07" * 32 not in devnet("env", "miner-1", "--dir", made).output
    with_it = [path.name for path in Path(made).rglob("*") if path.is_file() and b"07" * 32 in path.read_bytes()]
    assert with_it == ["seed"]


def test_who_is_added_is_registered_and_funded_and_a_second_trainer_is_refused(made: str) -> None:
    alice = told("add", "miner", "alice", "--dir", made)
    assert (alice["uid"], alice["role"], alice["permit"]) == (4, "miner", False)
    assert told("add", "validator", "bob", "--dir", made)["permit"]
    assert told("fund", "alice", "--tao", "0.5", "--dir", made)["permit"] is False
    assert told("fund", "alice", "--tao", "0.5", "--dir", made)["permit"] is True  # 1 TAO is the least
    assert told("add", "miner", "alice", "--dir", made)["stake_tao"] == 1.0
    assert told("env", "alice", "--dir", made)["BT_WALLET_HOT"] == "alice"
    assert "alice is a miner already" in refused("add", "validator", "alice", "--dir", made).what
    assert "one trainer, whom its parameters name: trainer" in refused("add", "trainer", "carol", "--dir", made).what
    for name in ("burn", "../x", "Alice", "a" * 40):
        assert refused("add", "miner", name, "--dir", made).exit_code == 3
    assert "there are trainer, bob, validator-1, alice, miner-1" in refused("env", "carol", "--dir", made).hint


def test_a_manual_clock_moves_by_advance_alone_and_a_real_one_never(made: str, tmp_path: Path) -> None:
    block = told("status", "--dir", made)["block"]
    assert told("advance", "31", "--dir", made) == {"block": block + 31}
    assert told("status", "--dir", made)["window"] == 30
    told("init", str(tmp_path / "real"), "--block-time", "0.2")
    assert "clock is real" in refused("advance", "--dir", str(tmp_path / "real")).what


@pytest.mark.parametrize("value", ["/a/plain path", "/it's", '/a"b', "/with $HOME and `ls`", "/back\\slash"])
def test_settings_come_back_from_every_form_as_they_were(value: str) -> None:
    settings = {"GRAIL_CACHE_DIR": value, "NETUID": "81"}
    script = f'{written(settings, "shell")}\nprintf "%s|%s" "$GRAIL_CACHE_DIR" "$NETUID"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == f"{value}|81"
    assignments, faults = parse(written(settings, "dotenv"))
    assert (faults, {one.name: one.value for one in assignments}) == ([], settings)
    assert json.loads(written(settings, "json")) == settings


def test_files_of_the_network_that_are_damaged_are_named(made: str) -> None:
    for name in ("devnet.json", "seed", "roles/miner-1.json"):
        path = Path(made) / name
        whole = path.read_bytes()
        for bad in (b"", b"{}", whole.replace(b"1", b"2", 1).replace(b"07", b"zz", 1)):
            path.write_bytes(bad)
            error = refused("status", "--dir", made)
            assert isinstance(error, ConfigurationError), name
            assert isinstance(error, DamagedStateError) or "another format" in error.what, name
        path.write_bytes(whole)


# --- running -----------------------------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "grail_core.commands.grail", "devnet", "up", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_up_serves_verified_rounds_and_after_a_kill_goes_on_with_the_same_network(tmp_path: Path) -> None:
    root = tmp_path / "net"
    before = told("init", str(root), "--block-time", "0.2")
    first = start("--dir", str(root))
    eventually(lambda: process_of(DevnetFolder(root)) == first.pid)
    chain = LocalChain.open(root / "chain.sqlite")
    params = NetworkParameters.from_json(json.loads((root / "network.json").read_bytes()))
    url = told("env", "miner-1", "--dir", str(root))["GRAIL_BEACON_URLS"]
    due = params.beacon.round_at(chain.now_ms()) - 2
    assert DrandBeacon(params.beacon, [url], tmp_path / "cache", clock=chain.now_ms).get(due).round == due

    second = start("--dir", str(root))
    assert second.wait(60) == 18
    assert f"up already: process {first.pid}" in second.communicate()[1]
    assert refused("up", "--detach", "--dir", str(root)).exit_code == 18

    first.send_signal(signal.SIGKILL)
    first.wait()
    first.communicate()
    time.sleep(0.5)  # more than two blocks in which nobody ran it
    up = told("up", "--detach", "--dir", str(root))
    try:
        after = told("status", "--dir", str(root))
        assert (after["up"], after["process"]) == (True, up["process"])
        assert [one["hotkey"] for one in after["participants"]] == [one["hotkey"] for one in before["participants"]]
        assert after["network_digest"] == before["network_digest"]
        assert wall_clock_ms() - chain.now_ms() >= 250  # that time has not passed in it, but for the rest of one block
    finally:
        assert told("down", "--dir", str(root)) == {"up": False, "process": up["process"], "roles": {}}
    assert told("down", "--dir", str(root)) == {"up": False, "process": None, "roles": {}}
    assert json.loads((root / "up.json").read_bytes())["pid"] == up["process"]  # and what it left counts for nothing
    moved = free_port()
    up = told("up", "--detach", "--port", str(moved), "--dir", str(root))
    try:
        assert told("env", "miner-1", "--dir", str(root))["GRAIL_BEACON_URLS"] == f"http://127.0.0.1:{moved}"
        lock = root / "up.json"
        whole = lock.read_bytes()
        for pid in ("-1", "0", "true", '"1"'):  # whoever sends a signal to these sends it to many
            lock.write_text(f'{{"pid": {pid}}}')
            assert process_of(DevnetFolder(root)) is None
        lock.write_bytes(whole)
        copy = tmp_path / "copy"
        shutil.copytree(root, copy)  # its relay answers for the copy too, and is not its own
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            for stale in (up["process"], bystander.pid):
                (copy / "up.json").write_text(json.dumps({"pid": stale}))
                assert told("down", "--dir", str(copy)) == {"up": False, "process": None, "roles": {}}
            assert bystander.poll() is None
            assert told("status", "--dir", str(root))["process"] == up["process"]
        finally:
            bystander.kill()
            bystander.wait()
    finally:
        assert told("down", "--dir", str(root))["process"] == up["process"]
    assert not told("status", "--dir", str(root))["up"]


def test_down_names_the_roles_that_it_does_not_stop(made: str) -> None:
    state = StateFolder(Path(made) / "state" / "miner-1" / "devnet-0", Hotkey(bytes(32)))
    with state.held():
        assert told("down", "--dir", made)["roles"] == {"miner-1": os.getpid()}
        assert (
            f"still running, and without a beacon now: miner-1 (process {os.getpid()})" in devnet("down", "--dir", made).output
        )
    assert "still running" not in devnet("down", "--dir", made).output


def test_a_port_that_is_taken_ends_a_detached_start_with_what_its_process_said(tmp_path: Path) -> None:
    root = tmp_path / "net"
    told("init", str(root), *MANUAL)
    port = json.loads((root / "devnet.json").read_bytes())["port"]
    with ScriptedServer(Answer(404)) as other:
        error = refused("up", "--detach", "--dir", str(root), "--port", str(other.server_address[1]))
    assert error.exit_code == 3
    assert "cannot listen" in error.what
    assert "choose another --port" in error.what
    assert json.loads((root / "devnet.json").read_bytes())["port"] == port
