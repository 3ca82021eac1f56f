"""Which engine generates, on which devices, whether it is there, and whether the model fits where the layout puts it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grail_core import bounded_http
from grail_core.errors import CheckpointError, ConfigurationError, EngineError, GrailError
from grail_core.examination.findings import ENGINE, Finding, broken, not_asked, ok, warning
from grail_core.generation.installed import TRIED
from grail_core.participant.settings import Settings
from grail_core.text import printable
from grail_miner.doctor.machine import GIB, Machine
from grail_miner.equipment import SERVERS, engine_python
from grail_miner.layout import Layout, choose_backend, server_url

_SECONDS = 60
_SERVER_SECONDS = 10
_MOST_ANSWER = 64 * 1024
_RESERVED = 1 * GIB  # of a GPU, for CUDA's own and activations: an estimate
_ASK = """\
import json, platform
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try: return version(name)
    except PackageNotFoundError: return None
found = {name: of(name) for name in ("sglang", "vllm", "torch", "transformers")}
print(json.dumps({"python": platform.python_version(), **found}))
"""


@dataclass(frozen=True)
class ModelSize:
    """Of a folder in Transformers' layout."""

    weights: int  # bytes, as they are stored
    cache_per_token: int  # bytes of keys and values of one position in bf16
    context_length: int  # tokens

    @property
    def parameters(self) -> int:
        return self.weights // 2  # a checkpoint's tensors are bf16


def model_size(folder: Path) -> ModelSize:
    """Read from config.json and the sizes of the weight files; no tensor is read.

    Raises:
        CheckpointError: the folder has no configuration or no weights, or the configuration no sizes.
    """
    try:
        config: Any = json.loads((folder / "config.json").read_bytes())
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        width = int(config.get("head_dim") or config["hidden_size"] // heads)
        per_token = 2 * 2 * layers * int(config.get("num_key_value_heads") or heads) * width
        context = int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the model folder cannot be measured: {type(error).__name__}: {error}",
            where=str(folder),
            hint="give a folder with config.json and safetensors files",
        ) from error
    if not weights:
        raise CheckpointError("the model folder has no safetensors files", where=str(folder), hint="fetch them whole")
    return ModelSize(weights, per_token, context)


def engine(settings: Settings, layout: Layout, *, offline: bool) -> Iterator[Finding]:
    """Back-end and why; the interpreter with what is installed in it, or somebody else's server."""
    yield ok(ENGINE, "back-end", f"{layout.backend}: {layout.why}")
    for note in layout.notes:
        yield warning(ENGINE, "layout", note)
    yield from _there(settings, layout.backend, layout.url, offline=offline)


def without_layout(settings: Settings, visible: int, error: GrailError, *, offline: bool) -> Iterator[Finding]:
    """What can be asked of the engine where the settings give no layout, and why they give none."""
    backend, why = choose_backend(settings, visible)
    yield ok(ENGINE, "back-end", f"{backend}: {why}")
    yield broken(ENGINE, "layout", error)
    try:
        url = server_url(settings, backend)
    except GrailError as contradiction:
        if str(contradiction) != str(error):
            yield broken(ENGINE, "server", contradiction)
        return
    yield from _there(settings, backend, url, offline=offline)


def _there(settings: Settings, backend: str, url: str | None, *, offline: bool) -> Iterator[Finding]:
    if backend not in SERVERS:
        return
    if url is None:
        try:
            python = engine_python(settings, backend)
            yield from _installed(backend, python)
        except GrailError as error:
            yield broken(ENGINE, "interpreter", error)
        return
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        yield warning(
            ENGINE,
            "address",
            f"{url} is on another machine: who reaches it can run code in it, and it reads weights from its own disk",
            "put a tunnel to it on 127.0.0.1, and share the folder of weights under the same path",
        )
    if offline:
        yield not_asked(ENGINE, "server", "--offline")
        return
    try:
        yield ok(ENGINE, "server", f"{url} answers: {_server_says(backend, url)}")
    except GrailError as error:
        yield broken(ENGINE, "server", error)


def memory(layout: Layout, machine: Machine, size: ModelSize, max_model_len: int) -> Iterator[Finding]:
    """The weights where the layout puts them, against what those devices have."""
    gpus = {gpu.index: gpu.memory for gpu in machine.gpus}
    length = min(max_model_len, size.context_length)
    for index in layout.generation_gpus:
        ranks = len(layout.generation_gpus)
        room = int(layout.memory_share * gpus[index]) - size.weights // ranks - _RESERVED
        rows = room // max(1, size.cache_per_token * length // ranks)
        told = f"{gpus[index] / GIB:.1f} GiB, of which the server takes {round(100 * layout.memory_share)} %"
        if rows < 1:
            error = GrailError(
                f"{told}: {size.weights / ranks / GIB:.1f} GiB of weights leave no room for one row of {length} tokens",
                where="GRAIL_PIPELINE_VLLM_TP, GRAIL_PIPELINE_GPU_MEM_UTIL",
                hint="more GPUs for generation, or a larger share of them",
            )
            yield broken(ENGINE, f"memory of GPU {index}", error)
        else:
            yield ok(ENGINE, f"memory of GPU {index}", f"{told}: the weights, and about {rows} rows of {length} tokens")
    copies: dict[str, int] = {}
    for device in layout.workers.devices:
        copies[device] = copies.get(device, 0) + 1
    if layout.workers.kind == "threads":
        copies = dict.fromkeys(copies, 1)  # threads of one device share its copy
    if layout.generation_device is not None and not layout.shared_model:
        copies[layout.generation_device] = copies.get(layout.generation_device, 0) + 1
    for device, count in copies.items():
        yield _copies(device, count, layout, machine, size)


def _copies(device: str, count: int, layout: Layout, machine: Machine, size: ModelSize) -> Finding:
    kind, _, number = device.partition(":")
    if kind == "cuda":
        index = int(number)
        room = machine.gpus[index].memory * (1 - layout.memory_share if index in layout.shared_gpus else 1)
    elif machine.memory_free is None:
        return not_asked(ENGINE, f"memory of {device}", "this system does not say")
    else:
        room = machine.memory_free
    needed = count * size.weights
    copies = "1 copy" if count == 1 else f"{count} copies"
    told = f"{copies} of the weights to prove with: {needed / GIB:.2f} of {room / GIB:.1f} GiB"
    if needed > room:
        error = GrailError(
            told,
            where="GRAIL_PIPELINE_PROOF_WORKERS" if count > 1 else "GRAIL_PIPELINE_GPU_MEM_UTIL",
            hint="fewer workers on a device, a smaller share for the server, or another GPU for proofs",
        )
        return broken(ENGINE, f"memory of {device}", error)
    if needed + _RESERVED > room:
        return warning(ENGINE, f"memory of {device}", f"{told}, which leaves little for activations")
    return ok(ENGINE, f"memory of {device}", told)


def _installed(backend: str, python: Path) -> Iterator[Finding]:
    """Asked of the interpreter itself, without our settings in its environment, and without importing the engine."""
    failed = ConfigurationError(
        "the interpreter does not say what is installed in it",
        where=f"GRAIL_{backend.upper()}_PYTHON={python}",
        hint="run it by hand; make the environment anew",
    )
    try:
        ran = subprocess.run(
            [python, "-I", "-c", _ASK],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(ran.stdout[:_MOST_ANSWER])
        versions = {str(name): value for name, value in found.items() if value is None or isinstance(value, str)}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError) as error:
        raise failed from error
    there = versions.get(backend)
    if there is None:
        raise ConfigurationError(
            f"{backend} is not installed in this environment",
            where=str(python),
            hint=f"{python} -m pip install '{backend}{TRIED[backend]}'",
        )
    others = ", ".join(f"{name} {printable(versions.get(name) or 'none')[:40]}" for name in ("torch", "transformers", "python"))
    told = f"{backend} {printable(there)[:40]} with {others} ({python})"
    numbers = re.match(r"\d+(?:\.\d+)*", there)
    if numbers is None or tuple(map(int, numbers[0].split("."))) not in TRIED[backend]:
        hint = f"{python} -m pip install '{backend}{TRIED[backend]}'"
        raise ConfigurationError(f"{told} is not a version that this was tried with: {backend}{TRIED[backend]}", hint=hint)
    yield ok(ENGINE, "interpreter", told)


def _server_says(backend: str, url: str) -> str:
    """A server's own words for what it is, at most a line of them."""
    import httpx

    path = "/model_info" if backend == "sglang" else "/version"
    try:
        answer = bounded_http.get(url + path, most=_MOST_ANSWER, seconds=_SERVER_SECONDS, trust_env=False)
    except ValueError as error:
        raise EngineError(str(error), where=url + path, hint="is it the engine's server?") from error
    except httpx.HTTPError as error:
        raise EngineError(
            f"it does not answer: {type(error).__name__}", where=url + path, hint="start the server, or leave the URL unset"
        ) from error
    if answer.status != 200:
        raise EngineError(f"it answers {answer.status}", where=url + path, hint="is it the engine's server?")
    return printable(answer.body.decode("utf-8", errors="replace"), 200)
