"""Which policy each request is drawn by, and which are refused before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.protocol.policy import GenerationPolicy, require_samplable


def policies_of(requests: Sequence[GenerationRequest], default: GenerationPolicy) -> list[GenerationPolicy]:
    """The policy of each request.

    Raises:
        ProtocolViolationError: a request's own policy is none. The default was looked at when it was served.
    """
    looked_at = {default}
    for index, request in enumerate(requests):
        if request.policy is not None and request.policy not in looked_at:
            _require_drawable(request.policy, f"policy of row {index}")
            looked_at.add(request.policy)
    return [default if request.policy is None else request.policy for request in requests]


def refuse_penalty(policy: GenerationPolicy, where: str) -> None:
    """Raises: ProtocolViolationError: the policy has a repetition penalty, and an engine would draw."""
    if policy.repetition_penalty != 1:
        raise ProtocolViolationError(
            f"no engine draws with a repetition penalty of {policy.repetition_penalty} as the protocol says",
            where=where,
            hint="GRAIL_PIPELINE_BACKEND=hf draws by any policy",
        )


def refuse_truncation(policy: GenerationPolicy, where: str) -> None:
    """Raises: ProtocolViolationError: the policy truncates, and SGLang would draw by itself."""
    if truncates(policy):
        raise ProtocolViolationError(
            "a server in its deterministic mode draws with neither top-k nor top-p",
            where=where,
            hint="GRAIL_PIPELINE_DETERMINISTIC=false, so that our processor draws",
        )


def truncates(policy: GenerationPolicy) -> bool:
    """Does top-k or top-p remove tokens?"""
    return policy.top_k != -1 or policy.top_p < 1


def _require_drawable(policy: GenerationPolicy, where: str) -> None:
    try:
        require_samplable(policy)
        if policy.max_tokens < 1:
            raise ValueError(f"max_tokens is at least 1, not {policy.max_tokens}")
    except ValueError as error:
        raise ProtocolViolationError(
            str(error),
            where=where,
            hint="temperature and repetition_penalty are above 0, top_p is above 0 and at most 1, top_k is −1 or at least 1",
        ) from error
