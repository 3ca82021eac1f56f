"""A folder's configuration looked at before its tensors are: the model it makes, without memory for weights, in a child.

A configuration is a small program: it says how many modules are made, which tables are computed, and a class of Transformers
reads it as it likes. So it is tried in a process that may use so much processor time and memory and no more; what passes is
loaded in this one. What the model is, is asked of it there (`architecture`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError
from grail_core.model.architecture import context_length, require_decodable, require_describable

MAX_PROCESSOR_SECONDS = 60
"""Importing torch and Transformers takes 5, a model of 100 layers 5 more."""
MAX_MEMORY = 4 << 30
MAX_TABLES = 1 << 30
"""Bytes of what a model computes beside its weights: position tables, causal masks of old code (the context squared)."""
_WALL_SECONDS = 600
_MAX_REASON = 300

_BOOT = "import sys; sys.path += sys.argv[1:]; from grail_core.model.skeleton import skeleton_main; skeleton_main()"


def check_configuration(config: Mapping[str, Any], *, where: str = "") -> None:
    """Refuse what the protocol does not describe, or what is not decoded here, by its configuration alone.

    Args:
        config: config.json. One that names no model type is left to whoever loads the folder, which then fails.
        where: the folder it is of.

    Raises:
        CheckpointError: names the feature; or no causal model can be made of it within the limits.
    """
    if isinstance(config.get("model_type"), str):
        try:
            _check_text(json.dumps(config, sort_keys=True))
        except CheckpointError as error:
            if not where:
                raise
            raise CheckpointError(error.what, where=f"{where}: {error.where}", hint=error.hint) from error


@lru_cache(maxsize=64)
def _check_text(config: str) -> None:
    try:
        ended = _child(config.encode())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(
            f"the configuration could not be tried out: {error}",
            where="config.json",
            hint="free memory or processor time; try again",
        ) from error
    if ended.returncode == 0:
        return
    try:
        said = json.loads(ended.stdout)
        what, where, hint = (str(said[name]) for name in ("what", "where", "hint"))
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"no model could be made of the configuration (the child ended with code {ended.returncode})",
            where="config.json",
            hint=f"a model is made within {MAX_PROCESSOR_SECONDS} s and {MAX_MEMORY >> 30} GiB, weights not counted",
        ) from None
    raise CheckpointError(what, where=where, hint=hint)


def _child(config: bytes) -> subprocess.CompletedProcess[bytes]:
    """`skeleton_main` in a process of its own, which knows nothing of this one."""
    specs = [find_spec(name) for name in ("grail_core", "torch", "transformers")]
    folders = [str(Path(str(spec.origin)).resolve().parent.parent) for spec in specs if spec is not None]
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, *dict.fromkeys(folders)]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return subprocess.run(command, input=config, capture_output=True, env=environment, timeout=_WALL_SECONDS)


def check_module(module: Any) -> None:
    """All that is asked of a model's structure.

    Raises:
        CheckpointError: names what it has that is not described or decoded here.
    """
    require_describable(module)
    require_decodable(module)
    context_length(module)
    if not getattr(module, "_supports_sdpa", False):
        raise CheckpointError(
            "the model does not run on torch's scaled-dot-product attention (SDPA), which participants load it with",
            where=type(module).__name__,
            hint="use a model that Transformers runs with attn_implementation sdpa",
        )


def skeleton_main() -> None:
    """In the child: the configuration on standard input; exit code 0, or what is wrong on standard output."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_PROCESSOR_SECONDS, MAX_PROCESSOR_SECONDS + 1))
    if sys.platform == "linux":  # not RLIMIT_AS: torch's libraries reserve more addresses than they use
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    config = json.loads(sys.stdin.buffer.read())
    printed, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    try:
        check_module(skeleton(config))
    except CheckpointError as error:
        printed.write(json.dumps({"what": error.what, "where": error.where, "hint": error.hint}))
        printed.flush()
        os._exit(1)
    os._exit(0)


def skeleton(config: Mapping[str, Any]) -> Any:
    """The causal model of a configuration, its tensors without memory.

    Raises:
        CheckpointError: Transformers has no such model, cannot make it, or would compute larger tables than are loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.get("quantization_config"):
        raise CheckpointError(
            "the weights are quantised, and are not the numbers they stand for",
            where="config.json",
            hint="import the model that was quantised",
        )
    values = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    try:
        made = AutoConfig.for_model(config["model_type"], **values)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(made, attn_implementation="eager")
    except Exception as error:  # Transformers raises many kinds for a bad configuration
        raise CheckpointError(
            f"the configuration makes no causal language model: {type(error).__name__}: {_one_line(error)}",
            where="config.json",
            hint="the folder needs config.json of a causal model that Transformers knows, as save_pretrained(folder) wrote it",
        ) from error
    tables = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    if tables > MAX_TABLES:
        raise CheckpointError(
            f"the model computes tables of {tables >> 20} MiB beside its weights, at most {MAX_TABLES >> 20} MiB are made",
            where="config.json",
            hint="a smaller context (max_position_embeddings) makes smaller tables",
        )
    return module


def _one_line(error: Exception) -> str:
    """All of it: Transformers names the cause below a first line that says only which class found it."""
    return " ".join(str(error).split())[:_MAX_REASON]
