"""The models of the study of sizes: some trained for minutes, some random with the outliers of real weights.

A trained one learns the study's corpus with bf16 products and float32 weights, and leaves earlier checkpoints on the way. A
random one stands for shapes that cannot be trained here: Student-t weights (6 degrees), queries and keys with a gain, four
outlier dimensions ten times as large with small norm weights, and the final norm scaled until the next token has a stated
entropy. Both are ordinary Transformers folders in bf16 with the corpus's tokenizer. The result of one recipe depends on the
machine's instruction set, as that of every training does; folders are kept by recipe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tooling.testing.models.artefacts import Artefact, Artefacts, Recipe
from tooling.testing.models.corpus import Corpus
from tooling.testing.models.language_model import CONTROLS, END, MASTER_FILE, encoder, tokenizer, training_stream
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, configuration

FINAL: Final = "final"
TOKENIZER_VOCABULARY: Final = 1024
_OUTLIERS, _OUTLIER_GAIN, _OUTLIER_NORM = 4, 10.0, 0.3
_ATTENTION_GAIN, _BRANCH_GAIN = 1.3, 0.5
_DEGREES = 6  # of freedom of the Student-t weights


@dataclass(frozen=True)
class ModelRecipe:
    """One model. `steps` 0: random weights. `early`: shares of the steps after which a checkpoint is kept, per mille."""

    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    intermediate: int
    seed: int
    steps: int = 0
    batch: int = 16
    sequence: int = 128
    rate_millionths: int = 3000
    vocabulary: int = TOKENIZER_VOCABULARY
    tied: bool = False
    early: tuple[int, ...] = ()
    entropy_milli: int = 1200  # of a random model's next token, thousandths of a nat

    @property
    def trained(self) -> bool:
        return self.steps > 0

    @property
    def shape(self) -> Qwen2Shape:
        return Qwen2Shape(
            self.vocabulary,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            intermediate=self.intermediate,
            context=512,
            spread=0.02,
            tied=self.tied,
            end=CONTROLS.index(END),
        )


def make(store: Artefacts, corpus: Corpus, recipe: ModelRecipe, say: Callable[[str], None]) -> Artefact:
    """A folder of folders: `final`, and `early-NNN` for each earlier checkpoint; each has its `training.json`."""
    words = tokenizer(store, corpus, TOKENIZER_VOCABULARY)
    facts = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}
    named: Recipe = {"tokenizer": words.digest, "corpus": corpus.digest, "version": 1, **facts}

    def build(folder: Path) -> None:
        say(f"model {recipe.layers}x{recipe.hidden}, seed {recipe.seed}: {recipe.steps} steps")
        if recipe.trained:
            _train(folder, words.folder, corpus, recipe, say)
        else:
            _random(folder, words.folder, recipe)

    return store.make("sized-model", named, build)


# Trained


def _train(folder: Path, words: Path, corpus: Corpus, recipe: ModelRecipe, say: Callable[[str], None]) -> None:
    from transformers import Qwen2ForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    model = Qwen2ForCausalLM(configuration(recipe.shape))
    per_step = recipe.batch * recipe.sequence
    stream = training_stream(encoder(words), corpus, recipe.seed, recipe.steps * per_step)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    kept = {round(recipe.steps * share / 1000): share for share in recipe.early}
    losses: list[float] = []
    for step in range(recipe.steps):
        if step in kept:
            _save(model, folder / f"early-{kept[step]}", words, _told(corpus, losses, step * per_step))
        rate = recipe.rate_millionths * 1e-6 * min(1.0, (step + 1) / 20)
        for group in optimiser.param_groups:
            group["lr"] = rate * (0.05 + 0.475 * (1 + math.cos(math.pi * step / recipe.steps)))
        losses.append(_step(model, optimiser, stream[step * per_step : (step + 1) * per_step + 1], recipe))
        if step % 25 == 0:
            say(f"  step {step} of {recipe.steps}: loss {losses[-1]:.2f}")
    _save(model, folder / FINAL, words, _told(corpus, losses, recipe.steps * per_step))


def _step(model: Any, optimiser: Any, block: np.ndarray, recipe: ModelRecipe) -> float:
    """One step with bf16 products; weights, gradients and softmax stay float32."""
    inputs = torch.from_numpy(block[:-1].reshape(recipe.batch, recipe.sequence))
    targets = torch.from_numpy(block[1:].reshape(recipe.batch, recipe.sequence))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return float(loss.item())


def _told(corpus: Corpus, losses: list[float], seen: int) -> dict[str, Any]:
    last = round(float(np.mean(losses[-20:])), 3)
    return {"corpus": corpus.name, "tokens_seen": seen, "first_loss": round(losses[0], 3), "last_loss": last}


def _save(model: Any, folder: Path, words: Path, told: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    state = {name: value.detach() for name, value in model.state_dict().items() if not _alias(model, name)}
    save_file({name: value.contiguous() for name, value in state.items()}, _made(folder) / MASTER_FILE)
    rounded = {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    settings = model.config.to_dict() | {"dtype": "bfloat16", "architectures": ["Qwen2ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((words / name).read_bytes())
    told |= {"parameters": sum(value.numel() for value in state.values())}
    (folder / "training.json").write_text(json.dumps(told, indent=1))


def _alias(model: Any, name: str) -> bool:
    return bool(model.config.tie_word_embeddings) and name == "lm_head.weight"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# Random with outliers


@torch.no_grad()
def _random(folder: Path, words: Path, recipe: ModelRecipe) -> None:
    from transformers import Qwen2ForCausalLM

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(recipe.seed)
    model = Qwen2ForCausalLM(configuration(recipe.shape)).eval()
    outliers = torch.randperm(recipe.hidden, generator=draw)[:_OUTLIERS]
    for name, value in model.state_dict().items():
        if not _alias(model, name):
            value.copy_(_drawn(name, value, draw, outliers, recipe.tied))
    gain = _set_entropy(model, recipe, draw)
    said = f"random weights, four outlier dimensions, final norm scaled by {gain:.3f}"
    _save(model, folder / FINAL, words, {"corpus": said, "tokens_seen": 0})


def _drawn(name: str, value: Tensor, draw: torch.Generator, outliers: Tensor, tied: bool) -> Tensor:
    made = torch.randn(value.shape, generator=draw)
    if name.endswith("norm.weight"):
        made = torch.exp(0.25 * made)
        made[outliers] *= _OUTLIER_NORM
    elif name.endswith("bias"):
        made *= 0.5
    elif "embed_tokens" in name and not tied:
        made[:, outliers] *= _OUTLIER_GAIN / 2
    elif ".layers." in name:
        made *= _heavy_tail(value.shape, draw)
        if "o_proj" in name or "down_proj" in name:
            made *= _BRANCH_GAIN / math.sqrt(value.shape[1])
            made[outliers] *= _OUTLIER_GAIN
        else:
            gain = _ATTENTION_GAIN if "q_proj" in name or "k_proj" in name else 1.0
            made *= gain / math.sqrt(value.shape[1])
    return made


def _heavy_tail(shape: torch.Size, draw: torch.Generator) -> Tensor:
    """What makes a normal value Student-t of variance 1."""
    squares = torch.zeros(shape)
    for _ in range(_DEGREES):
        squares += torch.randn(shape, generator=draw).square_()
    return math.sqrt((_DEGREES - 2) / _DEGREES) / (squares / _DEGREES).sqrt_()


def _set_entropy(model: Any, recipe: ModelRecipe, draw: torch.Generator) -> float:
    """Scale the final norm until the mean entropy over random text is the recipe's; returns the factor."""
    tokens = torch.randint(0, recipe.vocabulary, (2, 64), generator=draw)
    states = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, 16:].flatten(0, 1)
    logits = states @ model.lm_head.weight.t()
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        logs = torch.log_softmax(logits * middle, dim=1)
        entropy = float(-(logs.exp() * logs).sum(dim=1).mean())
        low, high = (middle, high) if entropy > recipe.entropy_milli / 1000 else (low, middle)
    model.model.norm.weight.mul_(low)
    return low
