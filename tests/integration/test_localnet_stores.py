"""Localnet's buckets on S3: a server that tells the chain's time and outlives its process, and a run that ends like others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.devnet.network import free_port
from grail_core.storage.base import AccessDeniedError, ObjectStore, UnknownKeyError
from grail_core.storage.commitment import Credentials, parse_commitment
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.s3 import S3Store
from tooling import REPOSITORY
from tooling.localnet.plan import Layout, Plan
from tooling.localnet.processes import Processes, store_server
from tooling.localnet.remote_stores import REGION, RemoteStores, bucket_of, reader_of
from tooling.localnet.setup import make_network

GENESIS_MS = 1_767_225_600_000


@contextmanager
def running(layout: Layout) -> Iterator[RemoteStores]:
    """The server of a run, started as a run does."""
    stores, spec = RemoteStores.read(layout.remote_stores), store_server(layout)
    with (layout.root / "store.log").open("ab") as log:
        process = subprocess.Popen(spec.argv, env=dict(spec.env), stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", stores.port)):
                break
            time.sleep(0.02)
        yield stores
    finally:
        process.kill()
        process.wait()


def own(stores: RemoteStores, name: str) -> S3Store:
    return S3Store(stores.url, name, Credentials(*stores.keys[name]["write"]), region=REGION)


def test_the_stores_clock_is_the_chains_and_what_was_stored_outlives_the_server(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    chain = LocalChain.create(layout.chain, seed=1, clock=ClockMode.VIRTUAL, genesis_time_ms=GENESIS_MS, block_time_ms=1500)
    RemoteStores.make(b"seed", ["trainer", "miner-1"], free_port()).write(layout.remote_stores)
    assert layout.remote_stores.stat().st_mode & 0o077 == 0  # it holds write keys
    with running(layout) as stores:
        store = own(stores, "miner-1")
        first = store.put("grail/a", b"first", if_absent=True)
        chain.advance(3)
        second = store.put("grail/b", b"second")
        assert (first.stored_at_ms, second.stored_at_ms) == (GENESIS_MS, GENESIS_MS + 4000)  # 4.5 s, in whole seconds
        store.put("grail/gone", b"")
        store.delete("grail/gone")
        with pytest.raises(AccessDeniedError):
            S3Store(stores.url, "trainer", Credentials(*stores.keys["miner-1"]["write"]), region=REGION).put("x", b"")
        with pytest.raises(UnknownKeyError):
            S3Store(stores.url, "trainer", Credentials("0" * 32, "0" * 64), region=REGION).put("x", b"")
        assert bucket_of(layout, "miner-1").get("grail/a", max_bytes=5) == b"first"
        commitment = stores.address("miner-1").to_text()
        assert parse_commitment(commitment, 1) == stores.address("miner-1")
        read: ObjectStore = reader_of(layout).open(commitment)
        assert read.head("grail/b") == second
    chain.advance(100)
    with running(layout) as stores:  # it was killed
        assert list(own(stores, "miner-1").list("")) == [first, second]
        assert FilesystemStore(layout.store, "miner-1", read_only=True).get("grail/b", max_bytes=6) == b"second"


def test_settings_that_hold_write_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    plan, layout = Plan(1, "sat", 1, True, 1, (), 1, 1500, store="s3"), Layout(tmp_path)
    (tmp_path / "settings").mkdir()
    older = tmp_path / "settings" / "miner-1.env"
    older.write_text("what an earlier version left")
    older.chmod(0o644)
    Processes(plan, layout, make_network(plan, layout), "http://127.0.0.1:1").write_settings()
    files = sorted((tmp_path / "settings").iterdir())
    assert [path.name for path in files] == ["miner-1.env", "trainer.env", "validator-1.env"]
    for path in files:
        assert "R2_WRITE_SECRET_ACCESS_KEY=" in path.read_text()
        assert path.stat().st_mode & 0o077 == 0, path


def test_plans_of_earlier_versions_use_folders() -> None:
    plan = Plan(windows=1, env_id="sat", seed=1, quick=True, miners=1, cheats=(), validators=1, block_time_ms=1500)
    value = plan.to_json()
    assert value.pop("store") == "folders"
    assert Plan.from_json(value) == plan


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the server ends with its supervisor by Linux's means")
def test_a_run_on_s3_that_was_killed_goes_on_and_ends_like_any_other(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tooling.localnet", "--out", str(out), "--json", "--store", "s3", "--quick"]
    command += ["--windows", "2", "--miners", "2", "--groups", "4", "--evaluation-problems", "64"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    said = tmp_path / "said"
    with said.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=stderr)
    while process.poll() is None and "mean reward" not in said.read_text():
        time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL, said.read_text()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["validators_agree"]
    assert summary["windows"] == 2
    honest = [miner for miner in summary["miners"] if miner["strategy"] == "honest"]
    (cheat,) = [miner for miner in summary["miners"] if miner["strategy"] != "honest"]
    assert all(miner["weight"] > 0 and miner["windows_failed"] == 0 for miner in honest), summary["miners"]
    assert (cheat["weight"], cheat["windows_failed"] > 0) == (0, True)
    settings = (out / "settings" / "miner-1.env").read_text()
    assert "R2_READ_ACCESS_KEY_ID" in settings
    assert "GRAIL_STORAGE" not in settings  # nothing but what an operator of a real network sets
    chain = LocalChain.open(out / "chain.sqlite")
    texts = [neuron.commitment for neuron in chain.metagraph().neurons if neuron.commitment is not None]
    assert len(texts) == 6  # trainer, validators and miners
    assert all(text.startswith("s3:0:") for text in texts)
