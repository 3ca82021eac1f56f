"""What several ranks are asked to do beside one process, for `tooling.testing.ranks`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grail_trainer.alarm_settings import AlarmAction, AlarmSettings
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, LossKind, OptimiserSettings
from grail_trainer.learning.alarms import LEARNING_RATE_FACTOR
from grail_trainer.learning.followers import follow, lead_masters, learn_with_followers
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.packing import packs
from grail_trainer.learning.ranks import Ranks
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.sharded_masters import Lead, ShardedMasters
from grail_trainer.learning.sharded_state import read_whole
from grail_trainer.learning.training_state import SCALAR, state_digest
from grail_trainer.learning.update import update
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY, ROW = 19, 12
GROUPS, SIZE = 4, 4
OPTIMISER = OptimiserSettings(learning_rate=1e-3, warmup_steps=2, weight_decay=0.01)


def model(kind: str, seed: int) -> Any:
    """A tiny model of 4 heads; those of qwen3 have a norm over each head, whose gradient every rank has a part of."""
    if kind == "qwen2":
        return random_model(Qwen2Shape(VOCABULARY, hidden=16, heads=4, tied=True), seed)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )


def groups(count: int = GROUPS, seed: int = 5) -> list[RolloutGroup]:
    """Rows of one length, of which prompts and completions are of any."""
    rng = np.random.default_rng(seed)

    def rollout() -> Rollout:
        prompt = int(rng.integers(2, 8))
        row = TokenSequence(tuple(map(int, rng.integers(0, VOCABULARY, ROW))), prompt)
        drawn = rng.normal(-3, 0.2, row.completion_length).astype(np.float32)
        return Rollout(row, float(rng.random()), True, drawn)

    return [RolloutGroup(str(number), tuple(rollout() for _ in range(SIZE))) for number in range(count)]


def chosen(loss: LossKind, passes: int) -> GrpoSettings:
    """Settings whose every optimiser step (all groups) is so many passes."""
    rows = [rollout.row for group in groups() for rollout in group.rollouts]
    budget = next(most for most in range(ROW * len(rows), 0, -1) if len(packs(rows, most)) == passes)
    return GrpoSettings(epochs=3, minibatches=1, loss=loss, kl_coefficient=0.02, tokens_per_pass=budget)


def beside_one_process(ranks: Ranks, kind: str, losses: list[LossKind], passes: list[int]) -> list[dict[str, float]]:
    """The same updates by all ranks and by one process: how far numbers and weights differ, for each loss and split."""
    found = []
    for loss in losses:
        for count in passes:
            settings, reference = chosen(loss, count), model(kind, 9)
            shared = ShardedMasters(model(kind, ranks.rank), OPTIMISER, ranks)  # the others' weights are not looked at
            ours = update(shared, groups(), settings, window=30, reference=reference)
            weights, published = shared.tensors(), shared.published()
            if not ranks.first:
                continue
            alone = Masters(model(kind, 0), OPTIMISER)
            theirs = update(alone, groups(), settings, window=30, reference=model(kind, 9))
            expected = alone.tensors()
            if weights.keys() != expected.keys() or published.keys() != alone.published().keys():
                raise AssertionError("the ranks have other tensors")
            numbers = {
                name: abs(value - getattr(ours, name))
                for name, value in dataclasses.asdict(theirs).items()
                if not name.startswith("_")
            }
            start = {f"master.{name}": values.detach() for name, values in model(kind, 0).named_parameters()}
            apart = {name: float((expected[name].double() - weights[name].double()).abs().max()) for name in expected}
            found.append(
                {
                    "loss": numbers["loss"],
                    "norm": numbers["gradient_norm"] / theirs.gradient_norm,
                    "numbers": max(numbers.values()),
                    "masters": max(value for name, value in apart.items() if name.startswith("master.")),
                    "moments": max(value for name, value in apart.items() if name.startswith("moment")),
                    "moved": max(float((expected[name] - values).abs().max()) for name, values in start.items()),
                }
            )
    return found


def learn_and_save(ranks: Ranks, kind: str, resume: str | None, save: str) -> str:
    """One update from a state, kept as a folder of shards; the digest of what was kept."""
    masters = ShardedMasters(model(kind, 3), OPTIMISER, ranks)
    masters.scalars["kl_coefficient"] = 0.1
    if resume is not None:
        masters.resume(Path(resume))
    update(masters, groups(), chosen("dapo", 4), window=30, reference=model(kind, 9))
    masters.save(Path(save))
    return masters.digest()


def resumed_digest(ranks: Ranks, kind: str, path: str) -> str:
    """Of the state that was read, and gathered again; the tensors go back and forth once more on the way."""
    masters = ShardedMasters(model(kind, 4), OPTIMISER, ranks)
    masters.resume(Path(path))
    tensors = masters.tensors()
    masters.restore(tensors)
    again = masters.tensors()  # every rank calls it
    if ranks.first and state_digest(tensors) != state_digest(again):
        raise AssertionError("restoring what was gathered gives other tensors")
    return masters.digest()


def answers_that_lose_their_form(ranks: Ranks, folder: str) -> list[list[Any]]:
    """Windows of one well-formed and then only malformed answers, with either action of the alarm: what was raised in the
    last, why it was taken back, the learning rate's factor, and whether the scalars on the disk are the first rank's."""
    found = []
    actions: tuple[AlarmAction, ...] = ("slow", "undo")
    for action in actions:
        alarms = AlarmSettings(beginning=1, on_form_lost=action, on_kl="off", on_ratio="off", on_gradient="off")
        settings = HyperParameters(GrpoSettings(epochs=1, minibatches=1, kl_coefficient=0.0), OPTIMISER, alarms)
        if not ranks.first:
            follow(ranks, settings)
            continue
        with Lead(ranks) as lead:
            masters = lead_masters(model("qwen2", 0), settings, lead)
            for window in range(5):
                asked = [
                    RolloutGroup(one.name, tuple(dataclasses.replace(r, well_formed=not window) for r in one.rollouts))
                    for one in groups(seed=window)
                ]
                learned = learn_with_followers(masters, asked, settings, window=window, temperature=1.0, token_limit=ROW)
            masters.save(Path(folder) / action)
            held = {n.removeprefix(SCALAR): float(t) for n, t in read_whole(Path(folder) / action).items() if SCALAR in n}
            names = [alarm.name for alarm in learned.alarms]
            factor = masters.scalars[LEARNING_RATE_FACTOR]
            found.append([names, learned.undone.partition(":")[0], factor, held == masters.scalars])
    return found


def layout_is_refused(ranks: Ranks, heads: int, architecture: str) -> str:
    """What is said of a model that cannot be split over all ranks."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from grail_core.errors import ConfigurationError

    module: Any = random_model(Qwen2Shape(VOCABULARY, hidden=8 * heads, heads=heads, key_value_heads=1), 0)
    if architecture == "gpt2":
        module = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    try:
        ShardedMasters(module, OPTIMISER, ranks)
    except ConfigurationError as error:
        return error.what
    return ""
