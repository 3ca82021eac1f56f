"""No secret stands where it was not put: not in a log, an error, a file, an argument, or the environment of a child."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from grail_core.child_process.handle import child_environment
from grail_core.generation.launch import environment as engine_environment
from grail_core.generation.options import EngineOptions
from grail_core.telemetry import configure, get_logger
from grail_trainer.evaluating.child import child_environment as evaluation_environment
from tooling import REPOSITORY
from tooling.testing.localnet_with_secrets import BUCKET_SECRET, PASSWORD, ROLES, secrets_of
from tooling.testing.secrets_search import Found, ProcessWatch, Secrets, forms, told

ALL = {
    "BT_PW__HOME_ME_HOTKEYS_DEFAULT": "the password of a hotkey",
    "BT_WALLET_PASSWORD": "another password",
    "R2_WRITE_SECRET_ACCESS_KEY": "the secret of a bucket",
    "R2_WRITE_ACCESS_KEY_ID": "the key that writes",
    "GRAIL_NODE_TOKEN": "the token of a client",
    "WANDB_API_KEY": "the key of a dashboard",
    "HF_TOKEN": "the token of a hub",
    "AWS_SECRET_ACCESS_KEY": "the secret of a cloud",
    "OPENAI_API_KEY": "the key of another service",
}
HARMLESS = {"PATH": "/usr/bin", "R2_READ_ACCESS_KEY_ID": "reader", "R2_READ_SECRET_ACCESS_KEY": "committed on chain"}


def given(environment: Mapping[str, str]) -> list[str]:
    return [name for name, value in ALL.items() if value in environment.values()]


def test_no_child_is_given_a_secret_in_its_environment() -> None:
    own = ALL | HARMLESS
    engines = [engine_environment(EngineOptions(backend), own) for backend in ("sglang", "vllm")]
    evaluating = evaluation_environment(own, "cpu")
    for made in (child_environment(own), *engines, evaluating):
        assert given(made) == []
    # An evaluation reads the trainer's bucket: with the key that everybody reads with.
    assert evaluating["R2_READ_SECRET_ACCESS_KEY"] == evaluating["R2_WRITE_SECRET_ACCESS_KEY"] == "committed on chain"


def test_a_process_that_was_started_as_workers_are_has_no_secret_to_give_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALL.items():
        monkeypatch.setenv(name, value)
    secrets = Secrets({name: value.encode() for name, value in ALL.items()})
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=child_environment(os.environ)) as worker,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as careless,
    ):
        watch = ProcessWatch(secrets, holders=lambda depth, environment: False)
        while not {worker.pid, careless.pid} <= watch.seen.keys():
            watch.sample()
        for process in (worker, careless):
            process.communicate(b"\n")
    assert {one.secret for one in watch.found} == set(ALL)  # of the careless one, which has them all
    alone = ProcessWatch(secrets, holders=lambda depth, environment: b"WANDB_API_KEY" in environment)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=child_environment(os.environ)
    ) as worker:
        while worker.pid not in alone.seen:
            alone.sample()
        worker.communicate(b"\n")
    assert alone.found == set()


@pytest.mark.parametrize("how", ["text", "hex", "HEX", "base64", "urlsafe", "list", "json"])
def test_a_planted_secret_is_found_in_every_form(tmp_path: Path, how: str) -> None:
    seed = bytes(range(200, 232))
    written = {
        "text": seed,
        "hex": f"0x{seed.hex()}".encode(),
        "HEX": seed.hex().upper().encode(),
        "base64": base64.b64encode(seed),
        "urlsafe": base64.urlsafe_b64encode(seed),
        "list": str(list(seed)).encode(),
        "json": str(list(seed)).replace(" ", "").encode(),
    }[how]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "miner.log").write_bytes(b"before " + written + b" after")
    (tmp_path / "logs" / "clean.log").write_bytes(b"nothing")
    found = Secrets({"seed": seed}).in_files(tmp_path, lambda path: False)
    assert found == [Found("seed", "logs/miner.log")]
    assert Secrets({"seed": seed}).in_files(tmp_path, lambda path: path.parts[0] == "logs") == []
    assert all(len(form) >= 8 for form in forms(b"pw"))  # what is short is found by chance


def test_fields_that_are_named_like_secrets_are_masked_in_every_log(tmp_path: Path) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure("test", log_file=tmp_path / "log.jsonl")
        get_logger("grail_core.test").event("planted", password=PASSWORD.decode(), write_secret=BUCKET_SECRET.decode(), ok=1)
    finally:
        logging.getLogger().handlers[:], level = before[0], before[1]
        logging.getLogger().setLevel(level)
    assert b"planted" in (tmp_path / "log.jsonl").read_bytes()
    assert Secrets(secrets_of()).in_files(tmp_path, lambda path: False) == []


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_after_a_full_run_no_secret_stands_anywhere_but_where_it_was_put(tmp_path: Path) -> None:
    """The whole subnet in real processes, with encrypted hotkeys; every log, file, argument and environment is searched."""
    secrets, out, folder = Secrets(secrets_of()), tmp_path / "out", tmp_path / "kept"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    command = [sys.executable, "-m", "tooling.testing.localnet_with_secrets", str(folder), "--out", str(out), "--json"]
    command += ["--quick", "--windows", "1", "--miners", "1", "--validators", "1", "--cheat", "none"]
    # Localnet is one below this process, its roles two: these were given their secrets, and nobody below them.
    with ProcessWatch(secrets, holders=lambda depth, environment: depth == 2 and b"BT_WALLET_HOT=" in environment) as watch:
        ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, env=kept, timeout=900, check=False)
    assert ran.returncode == 0, ran.stderr.decode()[-4000:]
    found = [Found(name, "standard output or error") for name in secrets.inside(ran.stdout + ran.stderr)]
    found += secrets.in_files(out, allowed=_keeps_secrets)
    found += watch.found
    assert found == [], told(found)
    # It was looked in the right places: roles were given them, and were seen; children of theirs were seen too.
    assert {"password", "bucket secret", "node token", "API key"} <= watch.given
    for name in ("grail_trainer", "grail_validator", "grail_miner", "model_child"):
        assert any(name in line for line in watch.seen.values()), name
    assert len(list((out / "logs").glob("*.jsonl"))) >= len(ROLES)


def _keeps_secrets(path: Path) -> bool:
    """Wallets, and the files that an operator's settings are written to."""
    return path.parts[0] == "wallets" or (path.parts[0] == "settings" and path.suffix == ".env")
