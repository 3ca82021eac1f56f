"""Engines by name: this wheel's own, and those that another wheel adds under the entry points `grail.generators`.

An entry point's object is called with `EngineOptions` and the numerics class that headers will name, and returns a `Generator`;
nothing is started by that. A name of this wheel's cannot be taken by another.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from grail_core.errors import ConfigurationError
from grail_core.generation.base import Generator
from grail_core.generation.joining import JoiningGenerator
from grail_core.generation.options import EngineOptions

if TYPE_CHECKING:
    from grail_core.generation.sglang import SglangGenerator
    from grail_core.generation.vllm import VllmGenerator

GROUP: Final = "grail.generators"

GeneratorFactory = Callable[[EngineOptions, str], Generator]


def hf(options: EngineOptions, numerics_class: str) -> Generator:
    """Transformers in this process, over the model that it is handed with the weights."""
    from grail_core.generation.in_process import InProcessGenerator

    return InProcessGenerator(lambda _model: numerics_class)


def sglang(options: EngineOptions, numerics_class: str) -> JoiningGenerator:
    """SGLang: somebody else's server at `options.url`, or one of ours."""
    from grail_core.generation.sglang import SglangGenerator

    return _served(options, numerics_class, SglangGenerator)


def vllm(options: EngineOptions, numerics_class: str) -> JoiningGenerator:
    """vLLM: somebody else's server at `options.url`, or one of ours."""
    from grail_core.generation.vllm import VllmGenerator

    return _served(options, numerics_class, VllmGenerator)


def _served(options: EngineOptions, numerics_class: str, of: type[SglangGenerator] | type[VllmGenerator]) -> JoiningGenerator:
    def client(url: str, key: str | None) -> SglangGenerator | VllmGenerator:
        return of(url, options, numerics_class=numerics_class, api_key=key)

    if options.url is not None:
        return client(options.url, None)
    from grail_core.generation.supervised import SupervisedGenerator

    return SupervisedGenerator(options, client, numerics_class=numerics_class, spare_tokens=of.spare_tokens)


OWN: Final[dict[str, GeneratorFactory]] = {"sglang": sglang, "vllm": vllm, "hf": hf}


def joining_generator(options: EngineOptions, numerics_class: str) -> JoiningGenerator:
    """SGLang or vLLM, as above, for rows that join one another.

    Raises:
        ConfigurationError: another engine, whose rows do not.
    """
    makers = {"sglang": sglang, "vllm": vllm}
    if options.backend not in makers:
        raise ConfigurationError(
            f"requests cannot join one another in {options.backend}", where="--engine", hint="use sglang, vllm or hf"
        )
    return makers[options.backend](options, numerics_class)


def generator_factory(name: str) -> GeneratorFactory:
    """What makes the generator of an engine.

    Raises:
        ConfigurationError: no such engine, a name that two wheels claim, or a wheel that cannot be imported.
    """
    if name in OWN:
        return OWN[name]
    points = {point.value: point for point in entry_points(group=GROUP) if point.name == name}
    if len(points) != 1:
        others = sorted({point.name for point in entry_points(group=GROUP)} - OWN.keys())
        raise ConfigurationError(
            "two wheels add an engine of this name" if points else "no engine of this name is installed",
            where=f"GRAIL_PIPELINE_BACKEND: {name}",
            hint=f"one of {', '.join((*OWN, *others))}" if not points else f"uninstall one of {', '.join(sorted(points))}",
        )
    (point,) = points.values()
    try:
        made: GeneratorFactory = point.load()
    except Exception as error:  # another wheel's import can fail in any way
        raise ConfigurationError(
            f"the engine's wheel cannot be imported: {type(error).__name__}: {str(error)[:200]}",
            where=f"GRAIL_PIPELINE_BACKEND: {name} ({point.value})",
            hint="install the wheel anew, or choose another engine",
        ) from error
    return made
