"""`grail-miner conformance`: its exit codes are its verdict, and its report can be read by a program."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.generation.base import Generator, ServedWeights
from grail_core.generation.in_process import InProcessGenerator
from grail_core.generation.options import Backend
from grail_core.participant.settings import load_settings
from grail_core.proof.numerics import numerics_class_of
from grail_miner.conformance import command
from grail_miner.conformance.command import ConformanceRequest, check_engine, conformance_command
from tooling.testing.models.tiny_qwen2 import BYTES, save_byte_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("model"), replace(BYTES, end=256))


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'grail-miner'; from grail_miner.cli import main; main()"
    own = {"PATH": os.environ["PATH"], "HOME": str(home)}
    if "PYTHONPATH" in os.environ:
        own["PYTHONPATH"] = os.environ["PYTHONPATH"]
    argv = [sys.executable, "-c", code, "conformance", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=own, cwd=home, check=False)


@pytest.mark.heavy
def test_hf_conforms_and_says_so_in_json(folder: Path, tmp_path: Path) -> None:
    asked = ("--engine", "hf", "--checkpoint", str(folder), "--groups", "8", "--tokens", "16", "--json")
    done = run(*asked, home=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["conforms"] is True
    assert said["agreement"] >= 0.97
    assert said["requests"] == 16
    assert sum(count for _, count in said["margin_histogram"]) == said["tokens"]


def test_an_engine_that_does_not_answer_ends_with_16(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nothing answers there, and nothing else comes there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = run("--engine", "vllm", "--backend", url, "--checkpoint", str(folder), "--groups", "1", home=tmp_path)
    assert done.returncode == 16, done.stderr
    assert url in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_draws_otherwise_ends_with_11(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hot(InProcessGenerator):
        """Its temperature is one that nobody asked for."""

        def serve(self, weights: ServedWeights) -> None:
            super().serve(replace(weights, policy=replace(weights.policy, temperature=1.0)))

    @contextmanager
    def opened(engine: Backend, url: str | None) -> Iterator[Generator]:
        yield Hot(numerics_class_of)

    monkeypatch.setattr(command, "opened", opened)
    asked = ConformanceRequest("hf", None, folder, groups=16, tokens=16, temperature=0.5)
    with pytest.raises(ProtocolViolationError, match="does not draw as a verifier does") as refused:
        conformance_command(load_settings(), asked, as_json=False)
    assert refused.value.exit_code == 11
    said = capsys.readouterr().out
    assert "likely cause: logits are not divided by the temperature" in said
    assert "DOES NOT CONFORM" in said


def test_the_policy_that_was_asked_for_is_the_one_that_is_probed(folder: Path) -> None:
    report = check_engine(load_settings(), ConformanceRequest("hf", None, folder, 4, 8, temperature=0.5, top_k=3, top_p=0.9))
    policy = report.reading.policy
    assert (policy.max_tokens, policy.temperature, policy.top_k, policy.top_p) == (8, 0.5, 3, 0.9)


def test_an_exported_checkpoint_is_a_models_folder_where_no_network_is_named(folder: Path, tmp_path: Path) -> None:
    exported = Path(shutil.copytree(folder, tmp_path / "exported"))
    (exported / "grail-manifest.json").write_text("{}")
    report = check_engine(load_settings(), ConformanceRequest("hf", None, exported, 2, 4))
    assert report.reading.policy.max_tokens == 4


def test_a_server_without_an_address_is_asked_for(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="where"):
        check_engine(load_settings(), ConformanceRequest("sglang", None, folder))
