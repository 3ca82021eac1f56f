"""A whole localnet with every cheat: its verdicts come out again from the buckets, and `explain` names each lie."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grail_core.keys import ss58
from grail_core.protocol.types import Hotkey
from tooling import REPOSITORY
from tooling.localnet.plan import Layout

NAMED = {
    "zero-sketch": "ran no model",
    "best-of-n": "best-of-N",
    "stale": "stale",
    "skip": "groups were left out",
    "copy": "a copy",
}

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    out = tmp_path_factory.mktemp("localnet") / "run"
    cheats = [option for cheat in NAMED for option in ("--cheat", cheat)]
    command = [sys.executable, "-m", "tooling.localnet", "--out", str(out), "--windows", "4", *cheats]
    done = subprocess.run(
        [*command, "--evaluation-problems", "64"], cwd=REPOSITORY, env=plain(), capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    return Layout(out)


def plain() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}


def said(role: str, arguments: list[str], settings: dict[str, str]) -> Any:
    """What a command prints as JSON, in a process of its own that knows these settings alone."""
    program = f"from grail_{role}.cli import main; main()"
    data = {"GRAIL_DATA_DIR": os.environ["GRAIL_DATA_DIR"]} if "GRAIL_DATA_DIR" in os.environ else {}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--json"],
        env={**plain(), **data, **settings},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode in (0, 11), done.stderr
    return json.loads(done.stdout)


def test_every_body_of_every_validator_comes_out_again_from_the_buckets_alone(layout: Layout, tmp_path: Path) -> None:
    for name in ("validator-1", "validator-2"):
        settings = {
            "GRAIL_NETWORK": str(layout.network),
            "GRAIL_CACHE_DIR": str(tmp_path / name),
            "GRAIL_BEACON_URLS": "http://127.0.0.1:9",  # gone, like chain and wallets: nobody is asked
        }
        windows = said("validator", ["replay", "--all", "--from", str(layout.store / name)], settings)
        assert [one["window"] for one in windows if one["status"] == "scored"] == [30, 60, 90, 120]
        assert {one["outcome"] for one in windows} == {"equal"}, windows
        assert all(one["rejudged"] >= 2 for one in windows if one["status"] == "scored")


def test_explain_names_what_each_cheat_did(layout: Layout) -> None:
    summary = json.loads(layout.summary.read_bytes())
    hotkeys = {miner["strategy"]: miner["hotkey"] for miner in summary["miners"]}
    settings = settings_of(layout, "validator-1")
    bodies = [said("validator", ["explain", str(window)], settings) for window in (30, 60, 90, 120)]
    for cheat, words in NAMED.items():
        told = [
            cause["what"] + " " + " ".join(cause["typical_of"])
            for body in bodies
            for miner in body["miners"]
            if ss58(Hotkey(bytes.fromhex(miner["hotkey"]))) == hotkeys[cheat]
            for cause in miner["causes"]
        ]
        assert told, f"{cheat} was never found out"
        assert all(words in one for one in told), (cheat, told)


def test_a_cheat_that_checks_its_file_first_reads_the_same_words(layout: Layout) -> None:
    """What nothing but a challenge finds is there for the miner too; a seal that is refused needs none."""
    summary = json.loads(layout.summary.read_bytes())
    for miner in summary["miners"]:
        if miner["strategy"] not in ("honest", "zero-sketch", "copy"):
            continue
        settings = settings_of(layout, miner["name"])
        (file,) = (layout.store / miner["name"] / "grail" / "windows").glob("*-window-120.parquet")
        told = said("miner", ["check", str(file), "--online"], settings)
        if miner["strategy"] == "honest":
            assert told["outcome"] == "accept", told
        else:
            assert NAMED[miner["strategy"]] in json.dumps(told["causes"]), told


def settings_of(layout: Layout, name: str) -> dict[str, str]:
    """Those that localnet leaves for a person's shell."""
    lines = (layout.root / "settings" / f"{name}.env").read_text().splitlines()
    return {key: " ".join(shlex.split(value)) for key, _, value in (line.partition("=") for line in lines)}
