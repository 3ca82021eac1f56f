"""The other ranks of a trainer: they hold shards of its weights and do what the first rank does, when it does it.

The first rank alone has chain, buckets and disk, verifies what is learned from, and decides. Followers have no state of their
own and read nothing but what it tells them: JSON for words, plain arrays for a window's rollouts. Ranks trust each other: they
are one deployment, started by one command. When one ends, the connections of the others do, and nothing of the window at hand
was written: whoever is started again learns from it anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grail_core.errors import MachineFaultError
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.dry_step import dry_step
from grail_trainer.learning.guarded import LearnedWindow, learn_window
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.ranks import Ranks
from grail_trainer.learning.reference import Offloaded
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.sharded_masters import END, Lead, ShardedMasters

BEGIN, LEARN, DRY_STEP = "begin", "learn", "dry_step"


def lead_masters(module: Any, chosen: HyperParameters, lead: Lead) -> ShardedMasters:
    """The first rank's masters, of this module's weights, with every follower's shards.

    Raises:
        ConfigurationError: see `ShardedMasters`.
    """
    made = {
        "config": json.loads(module.config.to_json_string(use_diff=False)),
        "attention": module.config._attn_implementation,
        "settings": chosen.to_json(),
    }
    with lead.call(BEGIN, made):
        return ShardedMasters(module, chosen.optimiser, lead.ranks, lead)


def learn_with_followers(
    masters: Masters,
    groups: Sequence[RolloutGroup],
    settings: HyperParameters,
    *,
    window: int,
    temperature: float,
    token_limit: int,
    reference: Any | None = None,
    kept: Callable[[], Mapping[str, Tensor]] | None = None,
) -> LearnedWindow:
    """`learn_window`, by all ranks that share the masters."""
    shared = isinstance(masters, ShardedMasters) and masters.lead is not None
    learn = partial(
        learn_window,
        masters,
        groups,
        settings,
        window=window,
        temperature=temperature,
        token_limit=token_limit,
        reference=reference,
        kept=None if shared else kept,
    )
    if not isinstance(masters, ShardedMasters) or masters.lead is None:
        return learn()
    told = {"window": window, "temperature": temperature, "token_limit": token_limit, "reference": reference is not None}
    with masters.lead.call(LEARN, told):
        masters.ranks.share_bytes(packed_groups(groups))
        learned = learn()
        masters.ranks.require_same(_outcome(masters, learned), "outcome of the update")
    return learned


def dry_step_with_followers(masters: Masters, **sizes: int) -> int:
    """`dry_step`, by all ranks that share the masters: one that has no memory for it ends them all."""
    if not isinstance(masters, ShardedMasters) or masters.lead is None:
        return dry_step(masters, **sizes)
    with masters.lead.call(DRY_STEP, sizes):
        return dry_step(masters, **sizes)


def follow(ranks: Ranks, chosen: HyperParameters) -> None:
    """Do what the first rank says until it says that there is no more.

    Raises:
        MachineFaultError: the first rank was started with other settings, or came to another outcome.
    """
    word, *arguments = ranks.share()
    if word != END:
        _follow(ranks, chosen, arguments[0])
    ranks.meet()


def _follow(ranks: Ranks, chosen: HyperParameters, made: dict[str, Any]) -> None:
    if made["settings"] != chosen.to_json():
        raise MachineFaultError(
            "rank 0 has other hyper-parameters", where=f"rank {ranks.rank}", hint="start every rank by the same command"
        )
    masters = ShardedMasters(empty_model(made["config"], made["attention"]), chosen.optimiser, ranks)
    reference = Offloaded(partial(empty_model, made["config"], made["attention"], torch.bfloat16))
    while (said := ranks.share())[0] != END:
        match said:
            case ["learn", told]:
                _learn(masters, chosen, reference if told.pop("reference") else None, told)
            case ["dry_step", sizes]:
                dry_step(masters, **sizes)
            case ["tensors" | "published" | "finite" as name]:
                getattr(masters, name)()
            case ["restore"]:
                masters.restore({})
            case ["save" | "resume_shards" as name, path]:
                getattr(masters, name)(Path(path))
            case _:
                raise MachineFaultError(
                    f"rank 0 asks for {said[0]!r}", where=f"rank {ranks.rank}", hint="start every rank with the same version"
                )


def _learn(masters: ShardedMasters, chosen: HyperParameters, reference: Offloaded | None, told: dict[str, Any]) -> None:
    groups = unpacked_groups(masters.ranks.share_bytes())
    learned = learn_window(masters, groups, chosen, reference=reference, **told)
    masters.ranks.require_same(_outcome(masters, learned), "outcome of the update")


def _outcome(masters: Masters, learned: LearnedWindow) -> list[Any]:
    """What every rank must have come to: the next step's rate and coefficient are among the scalars, and whichever rank is the
    one that writes them writes them for all."""
    steps = [learned.statistics.steps, learned.statistics.steps_refused]
    return [learned.undone, [alarm.name for alarm in learned.alarms], steps, dict(sorted(masters.scalars.items()))]


def empty_model(config: dict[str, Any], attention: str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal model of a configuration, with memory that holds nothing yet: untouched, it costs none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version", "dtype")}
    made = AutoConfig.for_model(config["model_type"], **values)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(made, attn_implementation=attention, dtype=torch.float32)
    module.to_empty(device="cpu")
    module.tie_weights()
    for parameter in module.parameters():  # and no buffer: tables of rotary frequencies are float32 always
        parameter.data = parameter.data.to(dtype)
    return module.eval().requires_grad_(False)


def packed_groups(groups: Sequence[RolloutGroup]) -> bytes:
    """A window's rollouts as plain arrays (safetensors)."""
    from safetensors.numpy import save

    rollouts = [rollout for group in groups for rollout in group.rollouts]
    names = json.dumps([group.name for group in groups]).encode()
    data: bytes = save(
        {
            "names": np.frombuffer(names, dtype=np.uint8),
            "sizes": np.array([len(group.rollouts) for group in groups], dtype=np.int64),
            "lengths": np.array([len(rollout.row.tokens) for rollout in rollouts], dtype=np.int64),
            "prompts": np.array([rollout.row.prompt_length for rollout in rollouts], dtype=np.int64),
            "tokens": np.array([token for rollout in rollouts for token in rollout.row.tokens], dtype=np.int64),
            "rewards": np.array([rollout.reward for rollout in rollouts], dtype=np.float64),
            "flags": np.array([[r.success, r.truncated, r.well_formed] for r in rollouts], dtype=np.uint8).reshape(-1, 3),
            "behaviour": np.concatenate([np.zeros(0, np.float32), *(rollout.behaviour for rollout in rollouts)]),
        }
    )
    return data


def unpacked_groups(data: bytes) -> list[RolloutGroup]:
    """What `packed_groups` made, to the bit."""
    from safetensors.numpy import load

    held = load(data)
    rollouts = [
        Rollout(TokenSequence(tuple(tokens.tolist()), int(prompt)), float(reward), bool(flags[0]), drawn, *map(bool, flags[1:]))
        for tokens, prompt, reward, flags, drawn in zip(
            _split(held["tokens"], held["lengths"]),
            held["prompts"],
            held["rewards"],
            held["flags"],
            _split(held["behaviour"], held["lengths"] - held["prompts"]),
            strict=True,
        )
    ]
    names = json.loads(held["names"].tobytes())
    return [RolloutGroup(name, tuple(part)) for name, part in zip(names, _split(rollouts, held["sizes"]), strict=True)]


def _split(values: Any, lengths: Any) -> list[Any]:
    ends = np.cumsum(lengths).tolist()
    return [values[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
