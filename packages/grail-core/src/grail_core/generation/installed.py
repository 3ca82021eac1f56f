"""Is the engine there, and one that this was tried with? Asked of its own interpreter, before anything is started.

Python's `importlib.metadata` answers in a tenth of a second; importing an engine takes half a minute and a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import Final

from grail_core.errors import ConfigurationError, EngineError
from grail_core.generation.launch import environment, interpreter
from grail_core.generation.options import EngineOptions

_ASK: Final = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
_SECONDS: Final = 60.0  # an interpreter on a cold network disk


@dataclass(frozen=True)
class VersionRange:
    """From `least` on, below `below`; the numbers of a release, without what follows them."""

    least: tuple[int, ...]
    below: tuple[int, ...]

    def __contains__(self, version: tuple[int, ...]) -> bool:
        return self.least <= version < self.below

    def __str__(self) -> str:
        return f">={_text(self.least)},<{_text(self.below)}"


TRIED: Final = {"sglang": VersionRange((0, 5, 23), (0, 6)), "vllm": VersionRange((0, 32), (0, 34))}
"""Versions whose flags, endpoints and plug-in interfaces these are. The extras of grail-miner name the same."""
_SETTING: Final = {"sglang": "GRAIL_SGLANG_PYTHON", "vllm": "GRAIL_VLLM_PYTHON"}


def installed_version(options: EngineOptions) -> str:
    """The engine's version, which is one that this was tried with.

    Raises:
        ConfigurationError: the interpreter is missing or broken, the engine is not installed in it, or is another version.
        EngineError: the interpreter does not answer in time.
    """
    backend, python = options.backend, interpreter(options)
    setting = _SETTING[backend]
    install = f"python -m venv ENGINE && ENGINE/bin/pip install '{backend}{TRIED[backend]}', then {setting}=ENGINE/bin/python"
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK, backend],
            env=environment(options, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ConfigurationError(
            f"the interpreter of {backend} cannot be started: {error.strerror}", where=f"{setting}={python}", hint=install
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"the interpreter of {backend} did not answer within {_SECONDS:.0f} s", where=python, hint="look at its disk"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        missing = bool(said) and "PackageNotFoundError" in said[-1]
        what = (
            f"{backend} is not installed in {python}"
            if missing
            else f"{python} fails: {said[-1] if said else 'it says nothing'}"
        )
        raise ConfigurationError(what, where=setting, hint=install)
    version = done.stdout.decode("utf-8", "replace").strip()
    found = re.match(r"\d+(?:\.\d+)*", version)
    if found is None or tuple(map(int, found[0].split("."))) not in TRIED[backend]:
        raise ConfigurationError(
            f"{backend} is {version or 'of no version'}, and this was tried with {TRIED[backend]}", where=python, hint=install
        )
    return version


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
