"""`grail-trainer init`: a tiny model and a tokenizer made for one environment, from nothing, in about a minute.

The result is an ordinary folder (bfloat16 safetensors, configuration, tokenizer, chat template, generation defaults) that
Transformers loads, and a pure function of (environment spec, what its teacher says, configuration, seed, code version): it is
kept in the cache under the digest of these. One thread is used, so that the number of processors does not change a bit of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.capabilities import Stage, teacher_of
from grail_core.disk import storage_errors, sync_folder
from grail_core.environment import Environment
from grail_core.errors import ConfigurationError
from grail_core.protocol.encoding import canonical_json
from grail_core.telemetry import get_logger
from grail_trainer.tiny.vocabulary import Codec, write_tokenizer

log = get_logger(__name__)

INIT_VERSION = 2
"""Part of the cache's key: raise it with every change of what `create_model` makes."""


@dataclass(frozen=True)
class TinyConfig:
    """A small Qwen2. Sizes in units, not in tokens or bytes, but for `context_length` and `max_new_tokens` (tokens)."""

    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 128
    context_length: int = 512
    max_new_tokens: int = 24
    rows: int = 32  # of one warm-start step
    most_steps: int | None = None  # of each warm-start stage; None: the teacher's


_KEY_PROBLEMS = 8
_HEAD_SIZE = 64
LARGEST_LAYERS, LARGEST_HIDDEN_SIZE = 96, 8192

Progress = Callable[[str, int, int, float], None]
"""(stage, steps done, steps in all, loss)."""


def config_for(environment: Environment) -> TinyConfig:
    """Sizes that fit an environment's prompts and answers, as its teacher knows them."""
    teacher = teacher_of(environment)
    return TinyConfig(context_length=teacher.context_length, max_new_tokens=teacher.max_new_tokens, rows=teacher.rows)


def shaped(config: TinyConfig, shape: str) -> TinyConfig:
    """The same model as deep and wide as `shape` says, "12x512": layers and hidden size.

    A wider model takes longer over every row, so a step of its warm start has fewer, two at least.

    Raises:
        ConfigurationError: no such shape.
    """
    layers, _, width = shape.partition("x")
    if not (layers.isascii() and layers.isdigit() and width.isascii() and width.isdigit() and len(shape) < 12):
        raise ConfigurationError(f"no shape: {shape[:40]!r}", where="--shape", hint="layers and hidden size, as in 12x512")
    depth, hidden = int(layers), int(width)
    if not 1 <= depth <= LARGEST_LAYERS or not _HEAD_SIZE <= hidden <= LARGEST_HIDDEN_SIZE or hidden % _HEAD_SIZE:
        raise ConfigurationError(
            f"no model of {depth} layers and hidden size {hidden}",
            where="--shape",
            hint=f"1 to {LARGEST_LAYERS} layers, a hidden size that is a multiple of {_HEAD_SIZE} up to {LARGEST_HIDDEN_SIZE}",
        )
    return dataclasses.replace(
        config,
        layers=depth,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        heads=max(config.heads, hidden // _HEAD_SIZE),
        rows=max(2, config.rows * TinyConfig.hidden_size // (2 * hidden)) if hidden > TinyConfig.hidden_size else config.rows,
    )


def create_model(
    environment: Environment,
    folder: Path,
    *,
    seed: int = 0,
    quick: bool = False,
    config: TinyConfig | None = None,
    cache_dir: Path | None = None,
    progress: Progress = lambda stage, done, total, loss: None,
) -> None:
    """Make the model folder, from the cache where it was made before.

    Raises:
        ConfigurationError: `folder` exists and is not empty.
        DiskFullError, StorageError: the disk refuses; nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError("the folder for the model is not empty", where=str(folder), hint="choose another with --out")
    config = config or config_for(environment)
    made = None if cache_dir is None else cache_dir / "models" / _key(environment, config, seed, quick)
    if made is not None and (made / "config.json").is_file():
        log.event("model_from_cache", folder=str(made))
        place_folder(made, folder)
        return
    target = folder if made is None else made
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".model.", dir=target.parent))
    try:
        with storage_errors(building):
            _make(environment, building, config, seed, quick, progress)
        place_folder(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if made is not None:
        place_folder(made, folder)


def _make(environment: Environment, folder: Path, config: TinyConfig, seed: int, quick: bool, progress: Progress) -> None:
    import torch

    from grail_trainer.tiny.warm_start import run_stage, stages_for

    codec = write_tokenizer(environment, folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = _new_module(codec, config, seed)
        for number, stage in enumerate(_fitted(stages_for(environment, quick=quick), config), start=1):

            def told(done: int, total: int, loss: float, number: int = number) -> None:
                progress(f"warm start, stage {number}", done, total, loss)

            word = hashlib.sha256(f"grail-trainer/warm-start|{seed}|{number}".encode()).digest()[:8]
            run_stage(module, environment, codec, stage, rows=config.rows, seed=int.from_bytes(word, "big"), progress=told)
    finally:
        torch.set_num_threads(threads)
    module.to(torch.bfloat16).save_pretrained(folder)
    _write_generation_config(folder, codec, config)
    (folder / "README.md").unlink(missing_ok=True)


def _fitted(stages: Sequence[Stage], config: TinyConfig) -> list[Stage]:
    """No longer than the configuration says, and with rates for its width: Adam's fall with it, from the default's on."""
    # 1.2e-3 in place of 5e-3 at eight times the width: 8 % of answers well formed after 80 steps of two rows at 12 x 512.
    width = (config.hidden_size / TinyConfig.hidden_size) ** (2 / 3)
    return [
        dataclasses.replace(
            stage,
            steps=stage.steps if config.most_steps is None else min(stage.steps, config.most_steps),
            learning_rate=stage.learning_rate / width,
            last_learning_rate=stage.last_learning_rate / width,
        )
        for stage in stages
    ]


def _new_module(codec: Codec, config: TinyConfig, seed: int) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=codec.renderer.vocabulary_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context_length,
            tie_word_embeddings=True,
            pad_token_id=codec.pad,
            eos_token_id=codec.end,
            bos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def _write_generation_config(folder: Path, codec: Codec, config: TinyConfig) -> None:
    """The policy a network should sample with, where Transformers keeps it; `models.policy_of` reads it."""
    value = {
        "do_sample": True,
        "eos_token_id": [codec.end],
        "pad_token_id": codec.pad,
        "max_new_tokens": config.max_new_tokens,
        "temperature": 1.0,
    }
    (folder / "generation_config.json").write_text(json.dumps(value, indent=1), encoding="utf-8")


def _key(environment: Environment, config: TinyConfig, seed: int, quick: bool) -> str:
    import torch
    import transformers

    value = {
        "spec": environment.spec.to_json(),
        "config": dataclasses.asdict(config),
        "teaching": _teaching(environment),
        "seed": seed,
        "quick": quick,
        "version": INIT_VERSION,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return hashlib.sha256(canonical_json(value)).hexdigest()[:32]


def _teaching(environment: Environment) -> list[Any]:
    """What the teacher says now, told by what it demonstrates: its code may change without a new version of the environment."""
    teacher = teacher_of(environment)
    problems = [environment.problem(seed) for seed in range(_KEY_PROBLEMS)]
    return [repr(teacher.vocabulary)] + [
        [
            stage.steps,
            repr((stage.learning_rate, stage.last_learning_rate)),
            [stage.demonstrate(problem, random.Random(seed)) for seed, problem in enumerate(problems)],
        ]
        for stage in teacher.stages
    ]


def place_folder(source: Path, target: Path) -> None:
    """Copy a finished folder to its name, whole or not at all."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            shutil.copytree(source, copy, dirs_exist_ok=True)
            for path in copy.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            copy.chmod(0o755)
            if target.is_dir() and not any(target.iterdir()):
                target.rmdir()
            if not target.exists():
                os.rename(copy, target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
