"""A whole localnet whose trainer is audited through the shipped command: every window follows, and an altered one does not."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grail_core.keys import load_hotkey
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import training_log_key
from grail_trainer.publishing.training_log import SignedLog
from tooling import REPOSITORY
from tooling.localnet.auditing import settings_without_wallet
from tooling.localnet.plan import Layout
from tooling.localnet.setup import COLDKEY, TRAINER

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]


def plain() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    return kept | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    out = tmp_path_factory.mktemp("localnet") / "run"
    options = ["--windows", "3", "--quick", "--evaluation-problems", "32", "--audit"]
    done = subprocess.run(
        [sys.executable, "-m", "tooling.localnet", "--out", str(out), *options],
        cwd=REPOSITORY,
        env=plain(),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return Layout(out)


def audited(layout: Layout, *arguments: str) -> tuple[int, Any]:
    """Exit code, and what it prints as JSON; None where it prints none."""
    program = "from grail_trainer.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "audit", *arguments, "--json"],
        env=plain() | settings_without_wallet(layout, "validator-2"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None


def test_every_window_of_a_run_follows_from_what_was_published(layout: Layout) -> None:
    summary = json.loads(layout.summary.read_bytes())
    assert summary["audit"] == {"equal": 3}
    code, windows = audited(layout, "30-90")
    assert code == 0
    assert [(one["window"], one["outcome"], one["taken"]) for one in windows] == [
        (30, "equal", []),
        (60, "equal", []),
        (90, "equal", []),
    ]


def test_a_window_that_is_none_is_said_with_the_one_that_is_meant(layout: Layout) -> None:
    assert audited(layout, "45")[0] == 3
    assert audited(layout, "9000")[0] == 5


def test_a_log_that_leaves_out_a_group_ends_with_exit_code_11(layout: Layout) -> None:
    store = FilesystemStore(layout.store, TRAINER)
    key = training_log_key(Window(90))
    kept = store.get(key, max_bytes=2**25)
    log = SignedLog.decode(kept).log
    signer = load_hotkey(Path(layout.wallets), COLDKEY, TRAINER)
    store.put(key, SignedLog.sign(dataclasses.replace(log, groups=log.groups[1:]), signer).encode())
    code, windows = audited(layout, "90")
    store.put(key, kept)
    assert code == 11
    assert windows[-1]["outcome"] == "different"
    assert "not what the rules give" in windows[-1]["difference"]
