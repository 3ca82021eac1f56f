"""A double in a process of its own, and an interpreter that poses as one with an engine installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tooling.testing.engine_double.__main__ import FAULTS_VARIABLE
from tooling.testing.engine_double.faults import Fault, Schedule
from tooling.testing.engine_double.setup import VERSIONS, Flavour


def pose(
    folder: Path, faults: Sequence[Fault] = (), *, versions: Mapping[Flavour, str] | None = None, seconds_per_step: float = 0.0
) -> Path:
    """Make an executable that poses as an environment with both engines: for GRAIL_SGLANG_PYTHON and its like.

    `-m sglang.launch_server` and `-m vllm.entrypoints.cli.main serve` start a double, `importlib.metadata` knows both engines'
    versions, and everything else is ordinary Python.

    Args:
        folder: where it is put, with the schedule of its faults, `faults.json`, which every double that it starts shares.
        versions: what is said to be installed; by default both. seconds_per_step: of every double it starts.

    Returns:
        Its path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packages = folder / "site-packages"
    for name, version in (VERSIONS if versions is None else versions).items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    packages.mkdir(exist_ok=True)
    schedule = folder / "faults.json"
    Schedule.write(schedule, faults)
    own = ":".join([str(packages), *(entry for entry in sys.path if entry)])
    python = shlex.quote(sys.executable)
    double = f"exec {python} -m tooling.testing.engine_double"
    script = f"""#!/bin/sh
unset PYTHONSAFEPATH
export PYTHONPATH={shlex.quote(own)}${{PYTHONPATH:+:$PYTHONPATH}} OMP_NUM_THREADS=1
export {FAULTS_VARIABLE}={shlex.quote(str(schedule))} ENGINE_DOUBLE_SECONDS_PER_STEP={seconds_per_step}
while [ "$1" = "-I" ]; do shift; done
case "$1 $2" in
"-m sglang.launch_server") shift 2; {double} sglang "$@";;
"-m vllm.entrypoints.cli.main"|"-m vllm.entrypoints.openai.api_server") shift 2; {double} vllm "$@";;
esac
exec {python} "$@"
"""
    interpreter = folder / "python"
    interpreter.write_text(script, encoding="utf-8")
    interpreter.chmod(0o755)
    return interpreter


class EngineProcess:
    """A double that runs in a process of its own until the `with` block ends; ready once this is made.

    Attributes:
        url: where it listens. process: to kill or to wait for.

    Raises:
        RuntimeError: it ended before it listened; the text is what it said.
    """

    def __init__(
        self,
        flavour: Flavour,
        folder: Path,
        *flags: str,
        faults: Path | None = None,
        label: str | None = None,
        dtype: str = "float32",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "tooling.testing.engine_double", flavour]
        if flavour == "sglang":
            command += ["--model-path", str(folder), "--enable-custom-logit-processor"]
            command += ["--weight-version", label] if label is not None else []
        else:
            command += ["serve", str(folder), "--logits-processors", "grail_seeded_sampling:GrailLogitsProcessor"]
            command += ["--enable-scale-out"]
        command += ["--port", "0", "--dtype", dtype, *flags]
        variables = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1", **(environment or {})}
        variables["PYTHONPATH"] = ":".join(entry for entry in sys.path if entry)
        if faults is not None:
            variables[FAULTS_VARIABLE] = str(faults)
        self.process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said: list[str] = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"ready to roll! (http://\S+)", line):
                self.url = found[1]
                break
        else:
            raise RuntimeError(f"the double ended with {self.process.wait()}: {''.join(said)[-2000:]}")

    def state(self) -> dict[str, Any]:
        """What `/double/state` says: steps, rows, label, digest of the weights, faults that struck, what was asked."""
        with urllib.request.urlopen(f"{self.url}/double/state") as answer:
            value: dict[str, Any] = json.load(answer)
            return value

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
