"""A double in this process: engine and server, over HTTP like any other, and within a test's reach."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tooling.testing.engine_double.arguments import Setting, parse
from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.faults import Fault, Schedule
from tooling.testing.engine_double.setup import Flavour
from tooling.testing.engine_double.sglang import SglangInterface
from tooling.testing.engine_double.vllm import VllmInterface
from tooling.testing.engine_double.web import DoubleServer, Route, Routes, bearer_is

_PLUGIN_FLAGS: dict[Flavour, tuple[str, ...]] = {
    "sglang": ("--enable-custom-logit-processor",),
    "vllm": ("--logits-processors", "grail_seeded_sampling:GrailLogitsProcessor", "--enable-scale-out"),
}


class EngineDouble:
    """One double, from the moment it is made until `close` (or the `with` block's end).

    Attributes:
        url: where it listens. engine: what decodes, with its pace and its trace. faults: may be added to at any time.
        server: what was asked of it.
    """

    def __init__(
        self,
        setting: Setting,
        faults: Schedule,
        *,
        start: Fault | None = None,
        more_routes: Callable[[EngineDouble], Routes] | None = None,
    ) -> None:
        self.setting = setting
        self.faults = faults
        self.engine = Engine(setting.engine)
        interface = SglangInterface if setting.engine.flavour == "sglang" else VllmInterface
        never = start is not None and start.kind == "never_healthy"
        routes = dict(interface(self.engine, setting, never_healthy=never).routes())
        routes.update(more_routes(self) if more_routes is not None else {})
        self.server = DoubleServer((setting.host, setting.port), routes, faults, unauthorised=self._unauthorised)
        self.url = self.server.url
        self.engine.dies = self.server.dies = self.die

    @classmethod
    def of(
        cls,
        flavour: Flavour,
        folder: Path,
        *flags: str,
        faults: Sequence[Fault] = (),
        plugin: bool = True,
        label: str | None = None,
        dtype: str = "float32",
    ) -> EngineDouble:
        """A double on a free port, with the engine's own flags.

        Args:
            plugin: the sampling plug-in is loaded. label: of the weights (SGLang; vLLM starts with "default"). dtype: in
                float32 the tokens are those of every other implementation in float32.
        """
        arguments = ["--model-path", str(folder)] if flavour == "sglang" else [str(folder)]
        arguments += ["--port", "0", "--dtype", dtype, *(_PLUGIN_FLAGS[flavour] if plugin else ())]
        if label is not None and flavour == "sglang":
            arguments += ["--weight-version", label]
        environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}
        schedule = Schedule(faults)
        made = cls(parse(flavour, [*arguments, *flags], environment), schedule, start=schedule.strike("start"))
        if label is not None and flavour == "vllm":
            made.engine.relabel(label)
        return made

    def die(self) -> None:
        """What the death of its process would look like: the port closed, every connection reset, nothing generated."""
        self.server.die()
        self.engine.close()

    def close(self) -> None:
        self.engine.close()
        self.server.stop()

    def __enter__(self) -> EngineDouble:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _unauthorised(self, route: Route, header: str | None) -> bool:
        return bool(self.setting.keys) and not any(bearer_is(header, key) for key in self.setting.keys)
