"""The doctor names everything that would keep a miner from being paid in one run, and says what it did not ask."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.checkpoints.trainer_life import TrainerLife
from grail_core.errors import CheckpointError
from grail_core.examination.checkpoint import trainer_findings
from grail_core.examination.findings import Finding, State
from grail_core.keys import write_wallet
from grail_core.participant.settings import Settings, load_settings, resolve
from grail_core.protocol.types import Block, Window
from grail_core.protocol.upgrade import Upgrade
from grail_miner.cli import cli
from grail_miner.doctor.engine import ModelSize, engine, memory, model_size
from grail_miner.doctor.examination import Asked, Examination, examine
from grail_miner.doctor.machine import GIB, Gpu, Machine, look, software
from grail_miner.layout import plan
from tooling.testing.network import FIRST_WINDOW, GENESIS_S, Network
from tooling.testing.scripted_server import Answer, RawAnswer, ScriptedServer


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


def states(findings: list[Finding]) -> dict[str, State]:
    return {one.name: one.state for one in findings}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """With a checkpoint and one registered miner, whose wallet is on the disk."""
    made = Network(tmp_path_factory.mktemp("network"), miners=1, validators=0)
    made.advance_to(FIRST_WINDOW + 5)
    (made.root / "network.json").write_text(json.dumps(made.params.to_json()))
    seed = hashlib.sha256(b"miner-0").digest()
    write_wallet(made.root / "wallets", "cold", "miner-0", coldkey_seed=bytes(32), hotkey_seed=seed)
    return made


@pytest.fixture
def relay(network: Network) -> Iterator[str]:
    key = DevelopmentKey.from_seed(b"small network")
    with Relay(key, genesis_time_s=GENESIS_S, period_s=1, port=0, clock=network.chain.now_ms) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def environment(network: Network, relay: str, **changed: str) -> dict[str, str]:
    return {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "BT_WALLET_PATH": str(network.root / "wallets"),
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "miner-0",
        "GRAIL_NETWORK": str(network.root / "network.json"),
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_STORAGE_BUCKET": "bucket-miner-0",
        "GRAIL_BEACON_URLS": relay,
        "GRAIL_CACHE_DIR": str(network.root / "doctors"),
        "GRAIL_STATE_DIR": str(network.root / "doctors"),
        "GRAIL_CHECKPOINT_CACHE_GIB": "1",
        "GRAIL_PIPELINE_BACKEND": "hf",
        "GRAIL_DEVICE": "cpu",
        **changed,
    }


def looked(given: dict[str, str], asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Examination:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return examine(resolve(), asked)


def test_a_miner_that_lacks_nothing_is_told_so(network: Network, relay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(network, relay).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, ["doctor", "--json", "--model", str(network.root / "model")])
    said = json.loads(done.stdout)
    assert done.exit_code == 0, done.stdout
    assert said["broken"] == 0
    found = {one["name"]: one for one in said["findings"]}
    for name in (
        "parameters",
        "wallet",
        "chain",
        "registration",
        "beacon",
        "write",
        "checkpoint",
        "environment",
        "calibration",
    ):
        assert found[name]["state"] == "ok", found[name]
    assert "the network admits both" in found["numerics classes"]["detail"]
    assert found["clock"]["state"] == "not asked"
    assert "sat" in found["memory"]["detail"]
    assert said["layout"]["backend"] == "hf"
    assert "generation: hf in process" in said["layout"]["picture"]


def test_everything_that_is_wrong_is_named_in_one_run_with_an_exit_code(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = environment(
        network,
        "http://127.0.0.1:9",  # nothing listens there
        GRAIL_CACHE_DIR=str(tmp_path / "cache"),  # without the rounds that were had before
        BT_WALLET_HOT="nobody",
        GRAIL_STORAGE_BUCKET="../elsewhere",
        GRAIL_PIPELINE_PROOF_FLASH_ATTN="true",
    )
    done = looked(wrong, Asked(), monkeypatch)
    assert {one.name for one in done.broken} == {"layout", "wallet", "beacon", "bucket"}
    assert states(done.findings)["registration"] is State.NOT_ASKED
    assert states(done.findings)["checkpoint"] is State.NOT_ASKED
    assert states(done.findings)["environment"] is State.NOT_ASKED
    ended = CliRunner().invoke(cli, ["doctor"])
    assert getattr(ended.exception, "exit_code", None) == 3, "of the first in order: there is no such wallet"
    assert "the proof path must match the validators'" in ended.stdout


def test_offline_asks_nothing_outside_this_machine_and_says_what_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something was asked"))
    done = examine(resolve(sglang_url="http://127.0.0.1:9", pipeline_backend="sglang"), Asked(offline=True))
    left = {one.name for one in done.findings if one.state is State.NOT_ASKED}
    assert {"server", "chain", "clock", "registration", "beacon", "bucket", "checkpoint", "environment"} <= left


def test_a_class_that_the_network_does_not_admit_is_broken_with_the_list(
    network: Network, relay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(network, relay, GRAIL_PIPELINE_BACKEND="sglang", GRAIL_SGLANG_URL="http://127.0.0.1:9")
    done = looked(given, Asked(offline=True), monkeypatch)
    (classes,) = [one for one in done.findings if one.name == "numerics classes"]
    if "bf16-flash-cuda-sglang" in network.params.generation_classes:
        assert classes.state is State.OK
    else:
        assert classes.state is State.BROKEN
        assert "admitted generation classes: " in classes.hint


# --- engines -----------------------------------------------------------------------------------------------------------------


def interpreter(folder: Path, **versions: str) -> Path:
    """A real interpreter of an environment in which these are installed, as far as their metadata says."""
    for name, version in versions.items():
        told = folder / f"{name}-{version}.dist-info"
        told.mkdir(parents=True)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    python = folder / "python"
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); exec(sys.argv[3])"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o755)
    return python


def asked_of(settings: Settings, visible: int = 2, *, offline: bool = False) -> dict[str, Finding]:
    return {one.name: one for one in engine(settings, plan(settings, visible), offline=offline)}


def test_an_engines_interpreter_is_asked_for_its_versions(tmp_path: Path) -> None:
    python = interpreter(tmp_path / "tried", sglang="0.5.23", transformers="5.19.0")
    found = asked_of(load_settings(sglang_python=python))
    assert found["back-end"].detail == "sglang: the default where 2 CUDA devices are visible"
    assert found["interpreter"].state is State.OK
    assert "sglang 0.5.23" in found["interpreter"].detail
    assert "transformers 5.19.0" in found["interpreter"].detail
    other = interpreter(tmp_path / "other", sglang="0.6.1")
    told = asked_of(load_settings(sglang_python=other))["interpreter"]
    assert told.state is State.BROKEN
    assert "sglang>=0.5.23,<0.6" in told.hint


def test_an_environment_without_minima_and_a_folder_that_is_none_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = Asked(environment="nope", offline=True)
    found = {one.name: one for one in examine(resolve(pipeline_symlink_dir=tmp_path / "file"), asked).findings}
    assert "'nope'" in found["no minima"].detail
    assert "gsm8k" in found["no minima"].detail
    assert found["links to weights"].state is State.BROKEN
    assert "GRAIL_PIPELINE_SYMLINK_DIR" in found["links to weights"].hint


def test_settings_that_give_no_layout_do_not_hide_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_PIPELINE_BACKEND", "vllm")
    monkeypatch.setenv("GRAIL_PIPELINE_PROOF_GPU", "63")
    done = examine(resolve(vllm_python=Path(sys.executable)), Asked(offline=True))
    assert done.layout is None
    found = {one.name: one for one in done.broken if one.section == "engine"}
    assert list(found) == ["layout", "interpreter"]
    assert found["interpreter"].error is not None
    assert found["interpreter"].error.exit_code == 3  # as at the start
    assert "'vllm>=0.32,<0.34'" in found["interpreter"].hint
    monkeypatch.setenv("GRAIL_VLLM_URL", "http://127.0.0.1:9")
    done = examine(resolve(vllm_python=Path(sys.executable)), Asked(offline=True))
    (one,) = (one for one in done.broken if one.section == "engine")
    assert "an interpreter to start one with" in one.detail


def test_an_interpreter_that_is_not_there_lacks_the_engine_or_fails_is_named(tmp_path: Path) -> None:
    broken_ = tmp_path / "broken"
    broken_.write_text("#!/bin/sh\nexit 3\n")
    broken_.chmod(0o755)
    for python, says in (
        (tmp_path / "nothing", "no such interpreter"),
        (Path(sys.executable), "vllm is not installed in this environment"),
        (broken_, "does not say what is installed"),
    ):
        found = asked_of(load_settings(vllm_python=python, pipeline_backend="vllm"))["interpreter"]
        assert found.state is State.BROKEN
        assert says in found.detail
    unset = asked_of(load_settings(pipeline_backend="vllm"))["interpreter"]
    assert "not installed in the miner's own environment" in unset.detail
    assert "GRAIL_VLLM_PYTHON=" in unset.hint


@contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, b'{"model_path": "/models/tiny"}', State.OK),
        (500, b"", State.BROKEN),
        (200, b"x" * 100_000, State.BROKEN),
        (302, b"", State.BROKEN),
    ],
)
def test_somebody_elses_server_is_asked_what_it_is(status: int, body: bytes, state: State) -> None:
    with server(status, body) as url:
        assert asked_of(load_settings(sglang_url=url))["server"].state is state


def test_a_server_that_drips_or_compresses_does_not_hold_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("grail_miner.doctor.engine._SERVER_SECONDS", 0.2)
    head = b"HTTP/1.1 200 OK\r\n"
    packed = Answer(200, gzip.compress(bytes(1 << 20)), {"Content-Encoding": "gzip"})
    for answer in (RawAnswer(head, b"A: b\r\n", -1, 0.01), RawAnswer(head + b"\r\n", b"x", -1, 0.01), packed):
        with ScriptedServer(answer) as server:
            found = asked_of(load_settings(sglang_url=server.url))["server"]
        assert found.state is State.BROKEN
        assert "too slowly" in found.detail or "compressed" in found.detail


def test_a_server_that_does_not_answer_is_broken_and_one_elsewhere_is_worth_a_look() -> None:
    with server(200, b"") as url:
        pass
    assert asked_of(load_settings(sglang_url=url))["server"].state is State.BROKEN
    found = asked_of(load_settings(sglang_url="http://10.0.0.1:30000"), offline=True)
    assert found["address"].state is State.WARNING


# --- memory ------------------------------------------------------------------------------------------------------------------

FOUR_BILLION = ModelSize(weights=8 * GIB, cache_per_token=144 * 1024, context_length=40_960)


def held(memory_gib: int, visible: int, **given: object) -> dict[str, Finding]:
    settings = load_settings(**given)
    gpus = tuple(Gpu(index, "a GPU", memory_gib * GIB) for index in range(visible))
    here = Machine(2, 24 * GIB, 20 * GIB, "2.13.0", "13.0", "590.44", gpus)
    layout = plan(settings, visible)
    return {one.name: one for one in memory(layout, here, FOUR_BILLION, settings.pipeline_max_model_len)}


def test_the_weights_are_held_against_the_devices_that_the_layout_puts_them_on() -> None:
    fits = held(80, 2)
    assert {one.state for one in fits.values()} == {State.OK}
    assert "about 37 rows of 12288 tokens" in fits["memory of GPU 0"].detail, "(0.9 · 80 − 8 − 1) GiB / (12,288 · 144 KiB)"
    small = held(10, 2)
    assert small["memory of GPU 0"].state is State.BROKEN
    assert small["memory of cuda:1"].state is State.OK
    assert held(10, 4, pipeline_vllm_tp=2, pipeline_proof_gpu=2)["memory of GPU 1"].state is State.OK


def test_a_shared_gpu_has_for_proofs_what_the_server_leaves() -> None:
    shared = held(80, 1, pipeline_proof_gpu=0, pipeline_gpu_mem_util=0.95)
    assert shared["memory of cuda:0"].state is State.BROKEN, "4 GiB are left of 80, and the weights take 8"
    assert held(80, 1, pipeline_proof_gpu=0, pipeline_gpu_mem_util=0.80)["memory of cuda:0"].state is State.OK


def test_processes_have_a_copy_each_and_threads_of_a_device_share_one() -> None:
    two = {"pipeline_proof_workers": 2, "pipeline_proof_gpu": 1}
    assert "16.00 of 80.0 GiB" in held(80, 2, pipeline_proof_subprocess=True, **two)["memory of cuda:1"].detail
    assert "8.00 of 80.0 GiB" in held(80, 2, **two)["memory of cuda:1"].detail
    assert held(80, 0, pipeline_proof_workers=3, pipeline_proof_subprocess=True)["memory of cpu"].state is State.BROKEN


def test_a_model_folder_is_measured_without_reading_a_tensor(network: Network, tmp_path: Path) -> None:
    size = model_size(network.root / "model")
    config = json.loads((network.root / "model" / "config.json").read_text())
    width = config["hidden_size"] // config["num_attention_heads"]
    assert size.cache_per_token == 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * width
    assert size.context_length == config["max_position_embeddings"]
    assert size.weights == (network.root / "model" / "model.safetensors").stat().st_size
    for text in ("", "{}", "[]", '{"num_hidden_layers": "many"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be measured"):
            model_size(tmp_path)


def test_a_driver_without_a_device_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine(2, None, None, "2.13.0+cpu", None, "590.44", ())
    (driver,) = [one for one in software(here) if one.name == "driver"]
    assert driver.state is State.WARNING
    assert "torch was built without CUDA" in driver.detail
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (driver,) = [one for one in software(Machine(2, None, None, "2.13.0", "13.0", "590.44", ())) if one.name == "driver"]
    assert "CUDA_VISIBLE_DEVICES" in driver.detail


def test_devices_that_torch_cannot_use_are_broken_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_index: int) -> None:
        raise RuntimeError("CUDA error: device is lost\nmore lines")

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lost)
    here = look()
    assert here.gpus == ()
    (found,) = [one for one in software(here) if one.state is State.BROKEN]
    assert found.detail == "torch cannot use the devices: CUDA error: device is lost"


@pytest.mark.parametrize(
    ("life", "state", "told"),
    [
        (TrainerLife(None), State.OK, "no later one is announced"),
        (TrainerLife(None, announced=Upgrade(2, Block(900))), State.WARNING, "from block 900 on, in 20 windows"),
        (TrainerLife(None, required="version 2 is in force"), State.BROKEN, "version 2 is in force"),
    ],
)
def test_an_upgrade_is_told_before_it_ends_the_miner(life: TrainerLife, state: State, told: str) -> None:
    (finding,) = trainer_findings(life, Window(300), "grail-miner")
    assert finding.state is state
    assert told in finding.detail
    assert state is State.OK or finding.hint == "pip install --upgrade grail-miner"


def test_a_silent_trainer_is_told_with_what_goes_on(network: Network) -> None:
    heard, silent = TrainerLife(network.manifest), TrainerLife(network.manifest, silent_windows=12)
    assert [one.state for one in trainer_findings(heard, Window(60), "grail-miner")] == [State.OK, State.OK]
    warned = [*trainer_findings(silent, Window(390), "grail-miner")][1]
    assert warned.state is State.WARNING
    assert warned.detail.startswith("silent for 12 windows: checkpoint 0 is in force from window 30")
    ahead = [*trainer_findings(heard, Window(0), "grail-miner")][1]  # it is there, and another one is in force
    digest = network.manifest.digest.hex()[:16]
    assert ahead.detail == f"checkpoint 0 ({digest}…) is published, and in force from window 30 on"
