"""The whole subnet with real processes: honest weight, a cheat's reason, equal verdicts, resuming after Ctrl-C and SIGKILL."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from grail_core.chain.development.local import LocalChain
from grail_core.participant.state import only_process
from tooling import REPOSITORY
from tooling.localnet.plan import Layout
from tooling.testing.served_page import folder_source, listening, page_of

CHEATS = ("zero-sketch", "best-of-n", "stale", "skip", "copy")


@dataclass(frozen=True)
class Ended:
    code: int
    summary: dict[str, Any]
    said: str

    def miners(self, strategy: str) -> list[dict[str, Any]]:
        return [m for m in self.summary["miners"] if m["strategy"] == strategy]


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tooling.localnet", "--out", str(out), "--json", *options]


def localnet(
    out: Path, *options: str, stop_after: str = "", how: Callable[[subprocess.Popen[str]], None] | None = None
) -> Ended:
    """Run to the end; do `how` (by default send SIGINT) once this start has printed `stop_after`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    errors = out.parent / f"{out.name}.stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command(out, *options), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        )
        try:
            if stop_after:
                while process.poll() is None and stop_after not in errors.read_text():
                    time.sleep(0.1)
                (how or (lambda started: started.send_signal(signal.SIGINT)))(process)
            output, _ = process.communicate(timeout=900)
        finally:
            process.kill()
    said = errors.read_text()
    return Ended(process.returncode, json.loads(output) if output.strip() else {}, said)


def processes_of(out: Path) -> list[str]:
    """Command lines that still name this run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(out).encode() in entry.read_bytes():
                found.append((entry.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def head_of(out: Path) -> int:
    """The newest block of a run that stands still."""
    return LocalChain.open(out / "chain.sqlite").current_block()


def check_promises(ended: Ended, cheats: tuple[str, ...]) -> None:
    assert ended.code == 0, ended.said
    assert ended.summary["validators_agree"], ended.said
    assert all(m["weight"] > 0 for m in ended.miners("honest")), ended.summary["miners"]
    assert all(m["windows_failed"] == 0 for m in ended.miners("honest")), ended.summary["miners"]
    for cheat in cheats:
        (miner,) = ended.miners(cheat)
        assert miner["weight"] == 0, miner
        if miner["reason"].startswith("seal "):  # refused at first sight, so never drawn
            assert miner["windows_accepted"] == miner["windows_failed"] == 0, miner
        else:
            assert miner["windows_failed"] > 0, miner
        assert any(character.isdigit() for character in miner["reason"]), miner


def find_reason_on_the_page(out: Path, miner: dict[str, Any]) -> None:
    """From the scoreboard of published verdicts to why this miner was rejected, by the links that it would take."""
    address = miner["hotkey"]
    source = folder_source(out / "store/validator-1")
    with listening(page_of(source, rule=None)) as url, httpx.Client(base_url=url) as client:
        assert f'href="/miners/{address}"' in client.get("/").text
        failed = re.search(rf'failed</span>.*?href="(/windows/[0-9]+/{address})"', client.get(f"/miners/{address}").text)
        assert failed is not None
        shown = html.unescape(client.get(failed[1]).text)
    check, statistic = miner["reason"].split(" ")[0], miner["reason"].split(": ")[1]
    for part in (check, statistic, miner["reason"].split(": ")[-1].partition("; ")[0], "<strong>Try:</strong>"):
        assert part in shown, miner


@pytest.mark.heavy  # a step of its own in .ci/run
@pytest.mark.timeout(900)  # about 60 s on two idle processors; longer on a busy machine, with the same outcome
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_that_was_interrupted_resumes_and_keeps_every_promise(tmp_path: Path) -> None:
    options = ("--quick", "--windows", "2", "--miners", "2", "--groups", "4", "--evaluation-problems", "64")
    out = tmp_path / "run"
    first = localnet(out, *options, stop_after="mean reward")
    assert first.code == 130, first.said
    assert "start again with the same options to resume" in first.said
    assert processes_of(out) == []
    head = json.loads((out / "state.json").read_text())
    assert (head["starts"], head["finished"]) == (1, False)
    stopped_at = head_of(out)

    second = localnet(out, *options, stop_after="trained on window", how=lambda process: process.kill())
    assert second.code == -signal.SIGKILL, second.said
    while processes_of(out):  # the kernel ends them with their supervisor
        time.sleep(0.01)
    assert head_of(out) >= stopped_at

    ended = localnet(out, *options)
    check_promises(ended, ("zero-sketch",))
    find_reason_on_the_page(out, ended.miners("zero-sketch")[0])
    assert ended.summary["windows"] == 2
    assert ended.summary == json.loads((out / "summary.json").read_text())
    assert ended.summary["rollouts_verified"] > 0
    assert ended.summary["eval_problems"] == 64
    assert 0 < ended.summary["delta_ratio"] < 1
    assert "<html" in (out / "report.html").read_text()
    assert processes_of(out) == []

    assert ended.summary["clock"] == "virtual"
    assert ended.summary["not_waited_for"] == []

    other = localnet(out, *options, "--seed", "5", "--real-time")
    assert other.code == 3
    assert "seed was 81, now 5" in other.said
    assert "resume it with the same options (without --real-time)" in other.said


def test_what_cannot_start_says_so_at_once_with_its_own_exit_code(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for options, code, words in (
        (("--env", "sudoku-9000"), 7, "sudoku-9000"),
        (("--env", "gsm8k", "--data-dir", str(tmp_path / "nowhere")), 7, "nowhere"),
        (("--model", str(tmp_path / "empty")), 6, "config.json"),
        (("--cheat", "kindness"), 2, "kindness"),
        (("--block-time", "2"), 2, "--real-time"),
    ):
        ended = localnet(tmp_path / "out", *options)
        assert (ended.code, words in ended.said) == (code, True), ended.said
        assert "Traceback" not in ended.said
    blocked = localnet(tmp_path / "file")
    assert blocked.code == 3
    assert "cannot be written" in blocked.said


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_each_lie_ends_with_weight_0_and_no_honest_miner_pays_for_it(tmp_path: Path) -> None:
    chosen = [option for cheat in CHEATS for option in ("--cheat", cheat)]
    ended = localnet(tmp_path / "run", "--windows", "3", *chosen, "--evaluation-problems", "256")
    check_promises(ended, CHEATS)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_every_role_killed_once_and_the_run_goes_on(tmp_path: Path) -> None:
    ended = localnet(tmp_path / "run", "--windows", "6", "--chaos", "--evaluation-problems", "256")
    check_promises(ended, ("zero-sketch",))
    assert set(ended.summary["processes_restarted"]) >= {"miner-1", "validator-1", "trainer", "beacon"}
    counted = [m["unique_valid"] for m in ended.miners("honest")]
    assert max(counted) <= ended.summary["rollouts_announced"], "nothing is counted twice"


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_miner_that_hangs_holds_the_others_up_once_and_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--quick", "--windows", "3", "--miners", "2", "--evaluation-problems", "64", "--patience", "90")

    def hang(_: object) -> None:
        (pid,) = (int(entry.parent.name) for entry in Path("/proc").glob("[0-9]*/environ") if is_miner_2(entry, out))
        os.kill(pid, signal.SIGSTOP)

    ended = localnet(out, *options, stop_after="miner-2      window 30:", how=hang)
    assert ended.code == 0, ended.said
    (said,) = ended.summary["not_waited_for"]
    assert said.startswith("miner-2 was not waited for any longer to make the groups of window"), said
    assert said in (out / "report.html").read_text()
    assert ended.summary["windows"] == 3
    assert ended.summary["validators_agree"]
    assert processes_of(out) == []


def is_miner_2(entry: Path, out: Path) -> bool:
    try:
        environment = entry.read_bytes()
    except OSError:
        return False
    return b"GRAIL_STORAGE_BUCKET=miner-2\0" in environment and str(out).encode() in environment


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_blocks_by_the_wall_clock_keep_the_same_promises_where_the_machine_is_quick_enough(tmp_path: Path) -> None:
    ended = localnet(
        tmp_path / "run", "--real-time", "--quick", "--windows", "2", "--miners", "1", "--evaluation-problems", "64"
    )
    check_promises(ended, ("zero-sketch",))
    assert ended.summary["clock"] == "real"


def test_a_folder_in_which_a_run_is_going_on_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with only_process(Layout(out).lock, "held by a test", hint=""):
        second = localnet(out, "--quick", "--windows", "1")
    assert second.code == 18, second.said
    assert "a run is going on in this folder" in second.said
    assert [path.name for path in out.iterdir()] == [Layout(out).lock.name]
