"""`grail-miner serve` as an operator runs it: it teaches, starts with a folder alone, says each mistake, and ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from grail_core.commands.grail import cli as grail
from grail_core.errors import CheckpointError, ConfigurationError, EngineError
from grail_core.keys import load_hotkey, write_wallet
from grail_core.participant.settings import Settings, load_settings
from grail_core.participant.state import AlreadyRunningError
from grail_miner.cli import cli as miner
from grail_miner.serving import service
from grail_miner.serving.models import HfModels
from grail_miner.serving.new_token import add_client
from grail_miner.serving.service import ServeRequest, serve
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_double.process import pose
from tooling.testing.serving_node import PATIENCE_S, save_served_model

ANYWHERE = "127.0.0.1:0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("models") / "tiny-model")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("GRAIL_STATE_DIR", str(tmp_path / "state"))
    return load_settings()


@contextmanager
def never_stopped() -> Iterator[threading.Event]:
    yield threading.Event()


@contextmanager
def serving_in_thread(settings: Settings, request: ServeRequest) -> Iterator[str]:
    """The address of a node that is served by another thread while the block lasts."""
    stop, told, url = threading.Event(), threading.Event(), []

    @contextmanager
    def stopping() -> Iterator[threading.Event]:
        yield stop

    def ready(address: str) -> None:
        url.append(address)
        told.set()

    thread = threading.Thread(target=serve, args=(settings, stopping, request), kwargs={"ready": ready})
    thread.start()
    try:
        assert told.wait(PATIENCE_S)
        yield url[0]
    finally:
        stop.set()
        thread.join()


def own_key(settings: Settings) -> Path:
    return settings.state_dir / "wallets" / "serving" / "hotkeys" / "default"


def test_help_teaches_without_heavy_imports() -> None:
    code = (
        "import sys; from grail_miner.cli import cli\n"
        "try: cli.main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'starlette', 'uvicorn', 'eth_account', 'bittensor', 'numpy', 'sqlite3'}\n"
        "heavy |= {'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "curl http://127.0.0.1:4000/v1/chat/completions" in result.stdout
    assert "grail verify receipt.json" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def models_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models in this process, which has their libraries already: a child needs seconds for them."""
    monkeypatch.setattr(service, "ModelProcess", HfModels)


def test_a_folder_is_all_it_needs_and_a_signal_ends_it(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "GRAIL_STATE_DIR": str(tmp_path / "state"), "NO_COLOR": "1"}
    code = "import sys; sys.argv[0] = 'grail-miner'; from grail_miner.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", f"./{folder.name}", "--listen", ANYWHERE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder.parent, env=environment) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr)
            ready = next(line for line in lines if " serving " in line)
            address = re.search(r"address=(http://127\.0\.0\.1:[0-9]+)", ready)
            assert address is not None, ready
            assert "model=tiny-model" in ready
            body = {"model": "tiny-model", "prompt": "Once", "max_tokens": 3}
            answer = httpx.post(f"{address[1]}/v1/completions", json=body, timeout=PATIENCE_S, trust_env=False)
            assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            rest = "".join(lines)
            assert process.wait(PATIENCE_S) == 0, rest
            assert "serving_stopped" in rest
            assert "Traceback" not in rest
        finally:
            process.kill()


def test_a_question_asked_on_the_command_line_is_answered_and_checked(settings: Settings, folder: Path) -> None:
    with serving_in_thread(settings, ServeRequest(folder, listen=ANYWHERE)) as url:
        arguments = ["ask", "What is 2 + 2?", "--node", url, "--model", str(folder), "--max-tokens", "8", "--json"]
        result = CliRunner().invoke(grail, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert '"accept"' in result.output


@pytest.mark.heavy
def test_a_server_that_somebody_else_runs_draws_and_the_answer_is_checked(settings: Settings, folder: Path) -> None:
    """The proof is made in a process of the node's. No GPU is here: the double's class is taken for what such servers have."""
    with EngineDouble.of("vllm", folder, dtype="bfloat16") as double:
        request = ServeRequest(folder, listen=ANYWHERE, engine="vllm", backend=double.url)
        with serving_in_thread(settings, request) as url:
            about = httpx.get(f"{url}/info", trust_env=False).json()["grail"]
            assert about["generation_class"] == "bf16-flash-cuda-vllm"
            arguments = ["ask", "What is 2 + 2?", "--node", url, "--model", str(folder), "--max-tokens", "8", "--json"]
            result = CliRunner().invoke(grail, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert '"accept"' in result.output
        assert len(double.engine.finished) == 1


@pytest.mark.heavy
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_an_engine_of_ours_that_dies_in_an_answer_is_started_again_and_the_answer_is_given(
    settings: Settings, folder: Path, tmp_path: Path, engine: str
) -> None:
    python = pose(tmp_path / "posing", [Fault("dies_in_generation", after=1, tokens=2)])
    settings = settings.model_copy(update={f"{engine}_python": python})
    with serving_in_thread(settings, ServeRequest(folder, listen=ANYWHERE, engine=engine)) as url:
        body = {"model": "tiny-model", "prompt": "Once", "max_tokens": 6, "seed": 1}
        answers = [httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE_S, trust_env=False) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["choices"] == answers[1].json()["choices"]
    (struck,) = json.loads((tmp_path / "posing" / "faults.json").read_text())
    assert struck["seen"] == 3  # of the second answer it died, and drew it anew


@pytest.mark.usefixtures("models_here")
def test_the_key_that_is_made_at_the_first_start_is_kept_for_this_user_alone(settings: Settings, folder: Path) -> None:
    hotkeys = []
    for _ in range(2):
        with serving_in_thread(settings, ServeRequest(folder, listen=ANYWHERE)) as url:
            hotkeys.append(httpx.get(f"{url}/info", trust_env=False).json()["grail"]["hotkey"])
            with pytest.raises(AlreadyRunningError, match="runs on this machine already"):
                serve(settings, never_stopped, ServeRequest(folder, listen=ANYWHERE))
    assert hotkeys[0] == hotkeys[1] == load_hotkey(settings.state_dir / "wallets", "serving", "default").hotkey.hex()
    assert stat.S_IMODE(own_key(settings).stat().st_mode) == 0o600


@pytest.mark.usefixtures("models_here")
def test_a_wallets_hotkey_signs_where_it_is_asked_for(settings: Settings, folder: Path, tmp_path: Path) -> None:
    made = write_wallet(tmp_path / "wallets", "cold", "hot", coldkey_seed=bytes(32), hotkey_seed=bytes([1]) * 32)
    of_wallet = settings.model_copy(update={"wallet_path": tmp_path / "wallets", "wallet_cold": "cold", "wallet_hot": "hot"})
    with serving_in_thread(of_wallet, ServeRequest(folder, listen=ANYWHERE, wallet=True, name="org/named")) as url:
        assert httpx.get(f"{url}/info", trust_env=False).json()["grail"]["hotkey"] == made.hotkey.hex()
        assert httpx.get(f"{url}/v1/models/org/named", trust_env=False).json()["id"] == "org/named"
    assert not own_key(settings).exists()


@pytest.mark.usefixtures("models_here")
def test_with_a_file_of_clients_it_listens_beyond_loopback_and_asks_for_a_token(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    token = add_client(tmp_path / "clients.toml", "alice")
    settings = settings.model_copy(update={"serve_tokens": tmp_path / "clients.toml"})
    with serving_in_thread(settings, ServeRequest(folder, listen="0.0.0.0:0")) as url:
        port = url.rpartition(":")[2]
        proxied = {"Via": "1.1 proxy"}
        for headers, status in (({}, 200), (proxied, 401), ({**proxied, "Authorization": f"Bearer {token}"}, 200)):
            assert httpx.get(f"http://127.0.0.1:{port}/info", headers=headers, trust_env=False).status_code == status


def test_an_address_that_is_taken_is_said_before_the_model_is_loaded(settings: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="another program listens at this address") as error:
            serve(settings, never_stopped, ServeRequest(tmp_path / "no-folder", listen=address))
    assert error.value.where == address


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"folder": Path("/nowhere/at/all")}, CheckpointError, "no such folder"),
        ({"listen": "0.0.0.0:4000"}, ConfigurationError, "not a loopback address"),
        ({"tokens": Path("/nowhere/clients.toml")}, ConfigurationError, "no such file of clients"),
        ({"network": "subnet-82"}, ConfigurationError, "no built-in network"),
        ({"wallet": True}, ConfigurationError, "no such wallet"),
        ({"engine": "vllm"}, ConfigurationError, "vllm generates, and is not installed"),
        ({"engine": "sglang", "backend": "http://127.0.0.1:1"}, EngineError, "broke off"),
    ],
)
def test_a_start_that_cannot_be_says_why(
    settings: Settings, folder: Path, tmp_path: Path, change: dict[str, object], kind: type[Exception], says: str
) -> None:
    settings = settings.model_copy(update={"wallet_path": tmp_path / "wallets"})
    with pytest.raises(kind, match=says):
        serve(settings, never_stopped, replace(ServeRequest(folder, listen=ANYWHERE), **change))  # type: ignore[arg-type]


def test_a_folder_that_is_no_model_is_said(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        serve(settings, never_stopped, ServeRequest(tmp_path / "empty", listen=ANYWHERE))


SECOND_SIGNAL = """
import threading
import torch
from grail_miner.serving import service

def interrupted(*_):
    matrix, busy = torch.ones(1500, 1500), threading.Event()
    def answer():
        busy.set()
        while True:
            matrix @ matrix
    threading.Thread(target=answer, daemon=True).start()
    busy.wait()
    raise SystemExit(130)  # what a second signal raises, wherever the main thread waits

service._serve = interrupted
service.serve(None, None, None)
"""


def test_a_second_signal_ends_it_with_130_while_torch_answers_in_another_thread() -> None:
    """An interpreter that is taken down beside such a thread is aborted, with code 134 and a word of C++."""
    ended = subprocess.run([sys.executable, "-c", SECOND_SIGNAL], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "either --model FOLDER or --live"),
        (["--live", "--model", "folder"], "either --model FOLDER or --live"),
        (["--live", "--network", "subnet-81"], "GRAIL_NETWORK names the network"),
        (["--live", "--thinking", "native"], "its checkpoints say how they think"),
        (["--model", "folder", "--backend", "http://127.0.0.1:8000"], "--engine sglang or --engine vllm"),
    ],
)
def test_what_a_network_says_itself_is_not_asked_of_the_operator(arguments: list[str], what: str) -> None:
    result = CliRunner().invoke(miner, ["serve", *arguments])
    assert (result.exit_code, what in result.output) == (2, True), result.output


def test_a_network_without_a_trainer_is_not_followed(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="names no trainer"):
        serve(settings, never_stopped, ServeRequest(None, listen=ANYWHERE))
