"""The groups that an update learns from, out of one window of an export.

The same choice as from a network: groups whose rewards vary, hotkeys in turn, none more than its share. Two passes over the
shards: the first keeps rewards alone, the second the rollouts that are chosen. What a shard claims of tokens is held against
the model before it comes near it; rewards and log-probabilities are the export's word, and the validators' behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.exported.folder import ExportFolder, Receipt
from grail_core.exported.rows import Row
from grail_core.keys import from_ss58
from grail_trainer.data.behaviour import BehaviourPolicy
from grail_trainer.data.turns import Candidate, fair_order, first_of, max_from_one
from grail_trainer.learning.advantages import varies
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence

RECORDED_TEMPERATURE: Final = 1.0
"""At which a recorded log-probability, of the model as it is, is that of the policy that drew."""


def chosen_groups(
    export: ExportFolder,
    receipt: Receipt,
    *,
    most_groups: int,
    vocabulary: int,
    context_length: int,
    measured: Callable[[], BehaviourPolicy] | None,
) -> list[RolloutGroup]:
    """At most `most_groups` groups, in the order in which an update of the network would have them.

    Args:
        vocabulary, context_length: of the model that learns.
        measured: what the log-probabilities of the policy that drew are asked of; None: the recorded ones are taken.

    Raises:
        ProtocolViolationError: the export is not what its receipt says, or a token is none of this model's.
        ConfigurationError: recorded log-probabilities of another temperature than 1.
    """
    policy = receipt.policy
    if policy is None:
        return []
    if measured is None and policy.temperature != RECORDED_TEMPERATURE:
        raise ConfigurationError(
            f"window {receipt.window} was drawn at temperature {policy.temperature:g}, and log-probabilities are recorded at 1",
            where="--behaviour recorded",
            hint="--behaviour model measures them with --model, which has to be the checkpoint that drew them",
        )
    rewards: dict[Candidate, list[float]] = {}
    for file in receipt.files:
        hotkey = from_ss58(file.hotkey)
        for row in export.rows(receipt, file):
            rewards.setdefault(Candidate(hotkey, row.group), []).append(row.reward)
    offered: dict[Any, list[int]] = {}
    for candidate, of_group in rewards.items():
        offered.setdefault(candidate.hotkey, [])
        if varies(of_group):
            offered[candidate.hotkey].append(candidate.group)
    share = max_from_one(most_groups, len(offered))
    planned = first_of(fair_order(offered), (), most_groups, share)
    rows = _rows_of(export, receipt, set(planned), vocabulary, context_length)
    return [_group(candidate, rows[candidate], policy.temperature, measured) for candidate in planned]


def _rows_of(
    export: ExportFolder, receipt: Receipt, wanted: set[Candidate], vocabulary: int, context_length: int
) -> dict[Candidate, list[Row]]:
    found: dict[Candidate, list[Row]] = {candidate: [] for candidate in wanted}
    for file in receipt.files:
        hotkey = from_ss58(file.hotkey)
        if not any(candidate.hotkey == hotkey for candidate in wanted):
            continue
        for row in export.rows(receipt, file):
            candidate = Candidate(hotkey, row.group)
            if candidate in found:
                _require_fits(export, receipt, row, vocabulary, context_length)
                found[candidate].append(replace(row, prompt="", completion=""))  # the texts are not learned from
    return found


def _require_fits(export: ExportFolder, receipt: Receipt, row: Row, vocabulary: int, context_length: int) -> None:
    largest = max(int(row.prompt_ids.max()), int(row.completion_ids.max()))
    length = len(row.prompt_ids) + len(row.completion_ids)
    if largest >= vocabulary or length > context_length:
        what = f"token {largest}, and the model has {vocabulary}" if largest >= vocabulary else f"{length} tokens"
        raise ProtocolViolationError(
            f"rollout {row.rollout} of group {row.group_id} does not fit this model: {what}",
            where=str(export.shard(receipt.window, row.hotkey)),
            hint=f"learn with the checkpoint that drew it: `grail checkpoint export {receipt.window} DIR`",
        )


def _group(
    candidate: Candidate, rows: Sequence[Row], temperature: float, measured: Callable[[], BehaviourPolicy] | None
) -> RolloutGroup:
    rows = sorted(rows, key=lambda row: row.rollout)
    sequences = [TokenSequence((*row.prompt_ids.tolist(), *row.completion_ids.tolist()), len(row.prompt_ids)) for row in rows]
    behaviour = [row.logprobs for row in rows] if measured is None else measured().logprobs(sequences, temperature)
    rollouts = tuple(
        Rollout(
            row=sequence,
            reward=row.reward,
            success=row.success,
            behaviour=np.ascontiguousarray(drawn, np.float32),
            truncated=row.truncated,
        )
        for row, sequence, drawn in zip(rows, sequences, behaviour, strict=True)
    )
    return RolloutGroup(rows[0].group_id, rollouts)
