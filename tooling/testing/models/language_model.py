"""Training a tiny language model that is real: a byte-level BPE vocabulary and a Qwen2 that has learnt its corpus.

The result is an ordinary Transformers folder in bf16 (config, safetensors, tokenizer with a chat template), as a checkpoint
of the network would be, and beside it the float32 weights that training ended with. One thread, float32, a fixed seed: the
same machine trains the same model.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tooling.testing.models.artefacts import Artefact, Artefacts, Recipe
from tooling.testing.models.corpus import Corpus, Document

END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CONTROLS = (END, SYSTEM, USER, ASSISTANT)
MASTER_FILE = "master.safetensors"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Architecture and training of one tiny model. `tokens_per_step` is batch × sequence."""

    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 352
    context: int = 512
    steps: int = 450
    batch: int = 16
    sequence: int = 128
    seed: int = 11

    @property
    def tokens_seen(self) -> int:
        return self.steps * self.batch * self.sequence


STUDY = Shape()
BRIEF = Shape(vocabulary=512, hidden=64, layers=4, heads=2, intermediate=192, steps=60, batch=8, sequence=96)


def tokenizer(store: Artefacts, corpus: Corpus, vocabulary: int) -> Artefact:
    """A folder with tokenizer.json and tokenizer_config.json."""
    recipe: Recipe = {"corpus": corpus.digest, "vocabulary": vocabulary, "version": 1}
    return store.make("tokenizer", recipe, lambda folder: _train_tokenizer(folder, corpus, vocabulary))


def language_model(store: Artefacts, corpus: Corpus, shape: Shape) -> Artefact:
    """A trained model's folder; `training.json` in it says what training reached."""
    words = tokenizer(store, corpus, shape.vocabulary)
    recipe: Recipe = {"tokenizer": words.digest, "corpus": corpus.digest, "version": 2, **asdict(shape)}
    return store.make("model", recipe, lambda folder: _train(folder, words.folder, corpus, shape))


def load_master(folder: Path) -> dict[str, torch.Tensor]:
    """The float32 weights that the bf16 ones of the folder were rounded from."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(folder / MASTER_FILE)
    return tensors


def encoder(folder: Path) -> Any:
    """The folder's `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _train_tokenizer(folder: Path, corpus: Corpus, vocabulary: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROLS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator((part for d in corpus.training[:2000] for part in (d.prompt, d.continuation)), trainer)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))


def document_tokens(tokens: Any, document: Document) -> list[int]:
    """Control tokens and text of one document, as it stands in the training stream."""
    end, _, user, assistant = (tokens.token_to_id(control) for control in CONTROLS)
    asked, answered = (tokens.encode(part).ids for part in (document.prompt, document.continuation))
    return [user, *asked, assistant, *answered, end]


def _train(folder: Path, words: Path, corpus: Corpus, shape: Shape) -> None:
    from safetensors.torch import save_file
    from transformers.utils import logging as transformers_logging

    from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

    transformers_logging.disable_progress_bar()
    tokens = encoder(words)
    architecture = Qwen2Shape(
        tokens.get_vocab_size(),
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        layers=shape.layers,
        heads=shape.heads,
        key_value_heads=max(1, shape.heads // 2),
        context=shape.context,
        spread=0.02,
        end=tokens.token_to_id(END),
    )
    # One thread: the same sums on any number of cores, and no threads that wait for each other on a busy machine.
    model = random_model(architecture, shape.seed)
    stream = training_stream(tokens, corpus, shape.seed, shape.tokens_seen)
    losses = _optimise(model, stream, shape)
    master = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    model.to(torch.bfloat16).save_pretrained(folder)
    save_file(master, folder / MASTER_FILE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((words / name).read_bytes())
    report = {
        "corpus": corpus.name,
        "tokens_seen": shape.tokens_seen,
        "first_loss": round(losses[0], 3),
        "last_loss": round(float(np.mean(losses[-20:])), 3),
        "parameters": sum(value.numel() for value in master.values()),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1))


def training_stream(tokens: Any, corpus: Corpus, seed: int, count: int) -> np.ndarray:
    """Documents in a fixed random order, one after another: as many tokens as training reads, and one more to predict."""
    order = np.random.default_rng(seed).permutation(len(corpus.training))
    wanted = count + 1
    stream: list[int] = []
    while len(stream) < wanted:
        for index in order:
            stream += document_tokens(tokens, corpus.training[index])
            if len(stream) >= wanted:
                break
    return np.asarray(stream[:wanted], np.int64)


def _optimise(model: Any, stream: np.ndarray, shape: Shape) -> list[float]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    per_step = shape.batch * shape.sequence
    for step in range(shape.steps):
        share = step / max(1, shape.steps)
        warm = min(1.0, (step + 1) / 20)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
        block = stream[step * per_step : (step + 1) * per_step + 1]
        inputs = torch.from_numpy(block[:-1].reshape(shape.batch, shape.sequence))
        targets = torch.from_numpy(block[1:].reshape(shape.batch, shape.sequence))
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses
