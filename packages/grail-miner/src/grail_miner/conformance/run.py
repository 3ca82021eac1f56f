"""One conformance run: probes to the engine, its answers against our own model, and a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grail_core.errors import EngineError
from grail_core.generation.base import Completion, GenerationRequest, Generator, ServedWeights
from grail_core.generation.remote import RemoteGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.conformance.causes import Asked, likely_causes
from grail_miner.conformance.probes import Probes, make_probes
from grail_miner.conformance.reading import Reader
from grail_miner.conformance.report import LEAST_AGREEMENT, ConformanceReport


@dataclass(frozen=True)
class Verifier:
    """What the engine is held against: the same checkpoint, in this process.

    `folder_policy`: what the folder's generation_config.json says of sampling, where that can be read at all.
    """

    model: PolicyModel
    renderer: PromptRenderer | None
    folder_policy: GenerationPolicy | None
    least: float = LEAST_AGREEMENT


def probes_for(weights: ServedWeights, verifier: Verifier, groups: int) -> Probes:
    """Prompts that leave room for all the policy's tokens."""
    longest = max(1, weights.context_length - weights.policy.max_tokens)
    return make_probes(verifier.renderer, verifier.model.vocabulary_size, longest, groups=groups)


def conformance(generator: Generator, weights: ServedWeights, verifier: Verifier, probes: Probes) -> ConformanceReport:
    """Ask an engine that serves `weights` already, and judge what it answers.

    Raises:
        EngineError: it fails, leaves requests out, or answers with tokens that no model of this size has.
    """
    answers = collect(generator, probes.requests)
    again = [collect(generator, [probes.requests[index]])[0] for index in probes.repeated]
    _require_tokens(probes.requests, answers, verifier.model)
    reader = Reader(verifier.model, weights.policy, weights.end_tokens)
    reading = reader.read(probes.requests, answers)
    asked = Asked(
        probes.group_of, dict(zip(probes.repeated, again, strict=True)), verifier.folder_policy, rendered_again(weights.folder)
    )
    same = sum(done.tokens == answers[index].tokens for index, done in asked.again.items())
    causes = tuple(likely_causes(reader, reading, asked))
    engine = generator.numerics_class
    report = ConformanceReport(reading, probes.group_of, causes, (same, len(again)), engine, verifier.least)
    if isinstance(generator, RemoteGenerator):
        report = replace(report, asked_again=generator.asked_again)
    if report.conforms:  # that its numbers are slightly others is what its class is calibrated for, and nothing to look into
        report = replace(report, causes=tuple(cause for cause in causes if cause.name != "numerics"))
    return report


def collect(generator: Generator, requests: Sequence[GenerationRequest]) -> list[Completion]:
    """Every answer, in the order asked. Raises EngineError: one is missing or comes twice."""
    found: dict[int, Completion] = {}
    for drawn in generator.generate(requests, lambda: False):
        if drawn.index in found or not 0 <= drawn.index < len(requests):
            raise EngineError(f"the engine answered request {drawn.index} of {len(requests)} twice, or never was asked it")
        found[drawn.index] = drawn.completion
    if len(found) != len(requests):
        raise EngineError(f"the engine answered {len(found)} of {len(requests)} requests")
    return [found[index] for index in range(len(requests))]


def _require_tokens(requests: Sequence[GenerationRequest], answers: Sequence[Completion], model: PolicyModel) -> None:
    for index, (request, done) in enumerate(zip(requests, answers, strict=True)):
        beyond = [token for token in done.tokens if not 0 <= token < model.vocabulary_size]
        if beyond:
            raise EngineError(
                f"the engine answered with token {beyond[0]}, of a vocabulary of {model.vocabulary_size}",
                where=f"request {index}",
                hint="it serves another model, or pads its head: look at the vocabulary of config.json",
            )
        if not done.tokens or len(request.prompt) + len(done.tokens) > model.context_length:
            raise EngineError(
                f"the engine answered with {len(done.tokens)} tokens to a prompt of {len(request.prompt)}",
                where=f"request {index}",
                hint=f"an answer has at least one token, and a row at most {model.context_length}",
            )


def rendered_again(folder: Path) -> Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]]:
    """What an engine makes of a prompt that it decodes and encodes again, with the folder's tokenizer."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return lambda prompt: ()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def others(prompt: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for skip in (False, True):
            text = tokenizer.decode(list(prompt), skip_special_tokens=skip)
            for add in (False, True):
                made = tuple(tokenizer.encode(text, add_special_tokens=add).ids)
                if made and made != prompt and made not in found:
                    found.append(made)
        return found

    return others
