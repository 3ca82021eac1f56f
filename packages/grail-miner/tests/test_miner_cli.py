"""The command teaches, answers at once, and ends with a clear error where a deployment is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grail_core.commands.options import stop_on_signals
from grail_core.errors import ConfigurationError
from grail_core.participant.settings import load_settings
from grail_miner.limits import MiningLimits
from grail_miner.start import run_miner


def run(*arguments: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'grail-miner'; from grail_miner.cli import main; main()"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )


def test_help_teaches_without_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from grail_miner.cli import cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'bittensor', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "before the deadline" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("environment", "code", "says"),
    [
        ({"GRAIL_NETWORK": "subnet-82"}, 3, "no network of this name"),
        ({}, 3, "names no trainer hotkey"),
        ({"NETUID": "many"}, 3, "NETUID"),
    ],
)
def test_a_wrong_deployment_ends_with_what_where_and_what_to_try(
    environment: dict[str, str], code: int, says: str, tmp_path: Path
) -> None:
    result = run("run", environment=environment, folder=tmp_path)
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_gpu_that_is_not_there_ends_the_start_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_PIPELINE_BACKEND", "sglang")
    monkeypatch.setenv("GRAIL_PIPELINE_VLLM_GPU", "63")
    with pytest.raises(ConfigurationError, match="there is no GPU 63"):  # beside what else is wrong with no settings
        run_miner(load_settings(), stop_on_signals, windows=1, limits=MiningLimits())
