"""The run: sections one after the other on each shape, within one budget of time, whatever becomes of any of them.

A section may take its share of what is left, and what it does not need goes to those after it. Time is looked at between items:
the first of a section always runs while the budget lasts. A failure is written down with its words and the run goes on, but for
an interrupt. What is known is written after every section, so that a run that is cut off leaves it.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from grail_core.disk import write_atomically
from grail_core.model.memory import free_memory
from tooling.studies.gpu_study import against_cpu, bit_equal, deviations, device, drift, throughput
from tooling.studies.gpu_study.bench import Bench
from tooling.studies.gpu_study.sections import NotHereError, Section
from tooling.studies.gpu_study.shapes import SHAPES, Measured

SECTIONS: Final = {
    one.name: one for one in (throughput.SECTION, drift.SECTION, deviations.SECTION, against_cpu.SECTION, bit_equal.SECTION)
}
"""By name, in the order in which they are taken on each shape."""

DONE, FAILED, NOT_HERE, NO_TIME = "done", "failed", "not here", "no time"

Say = Callable[[str], None]


class Study:
    """One run on one device.

    Args:
        out: a file for the JSON; None writes none. clock: monotonic seconds; a test passes its own.
    """

    def __init__(
        self,
        on: torch.device,
        shapes: Sequence[str],
        sections: Sequence[str],
        budget_s: float,
        *,
        out: Path | None = None,
        say: Say = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._out, self._say, self._clock = on, out, say, clock
        self._ends = clock() + budget_s
        self._started = clock()
        self._work = [
            (SHAPES[shape], SECTIONS[section])
            for shape in SHAPES
            if shape in shapes
            for section in SECTIONS
            if section in sections and (SHAPES[shape].against_cpu or not SECTIONS[section].small_shapes_only)
        ]
        self.found: dict[str, Any] = {"machine": device.facts(on), "budget_s": budget_s, "shapes": {}}

    @property
    def planned(self) -> int:
        """Sections that would run: some are of small shapes only."""
        return len(self._work)

    def run(self) -> dict[str, Any]:
        """Everything that was found, failures among it."""
        bench: Bench | None = None
        with device.tf32(False):
            for index, (measured, section) in enumerate(self._work):
                if bench is None or bench.measured is not measured:
                    bench = None  # two models of the largest shapes do not fit
                    _free()
                    bench = Bench(measured, self._device)
                self._section(bench, section, self._until(index))
                self._write()
        self.found["seconds"] = self._clock() - self._started
        self._write()
        return self.found

    def _until(self, index: int) -> float:
        """When the section at this place should be done."""
        now = self._clock()
        shares = [measured.share * section.share for measured, section in self._work[index:]]
        return now + max(0.0, self._ends - now) * shares[0] / sum(shares)

    def _section(self, bench: Bench, section: Section, until: float) -> None:
        name, started = bench.measured.name, self._clock()
        of_shape = self.found["shapes"].setdefault(name, {"shape": _described(bench.measured), "sections": {}})
        items: dict[str, Any] = {}
        of_shape["sections"][section.name] = items
        for place, (item, measure) in enumerate(section.items(bench)):
            if self._clock() >= (self._ends if place == 0 else until):
                items[item] = {"status": NO_TIME}
                continue
            items[item] = self._item(f"{name}, {section.name}, {item}", measure)
        self._say(f"{name}: {section.name} in {self._clock() - started:.1f} s")

    def _item(self, what: str, measure: Callable[[], Any]) -> dict[str, Any]:
        started = self._clock()
        try:
            figures = measure()
        except NotHereError as reason:
            return {"status": NOT_HERE, "reason": str(reason)}
        except Exception as error:  # noqa: BLE001 - the run is worth more than any item, and nothing is hidden: it is in the report
            said = (str(error).splitlines() or [""])[0][:300]
            self._say(f"{what} failed: {type(error).__name__}: {said}")
            failure = {"status": FAILED, "error": type(error).__name__, "reason": said, "where": _where(error)}
        else:
            return {"status": DONE, "seconds": round(self._clock() - started, 3), "figures": dict(figures)}
        _free()  # outside of the handler: its error held the frames, and with them their tensors
        return failure

    def _write(self) -> None:
        if self._out is not None:
            write_atomically(self._out, json.dumps(self.found, indent=1).encode())


def failures(found: dict[str, Any]) -> list[str]:
    """What failed, as "shape, section, item: words"."""
    return [
        f"{shape}, {section}, {item}: {outcome['error']}: {outcome['reason']}"
        for shape, of_shape in found["shapes"].items()
        for section, items in of_shape["sections"].items()
        for item, outcome in items.items()
        if outcome["status"] == FAILED
    ]


def _described(measured: Measured) -> dict[str, Any]:
    shape, amount = measured.shape, measured.amount
    return {
        "layers": shape.layers,
        "hidden": shape.hidden,
        "vocabulary": shape.vocabulary,
        "tied": shape.tied,
        "rollouts": 16 * amount.groups,
        "completion": amount.completion,
    }


def _where(error: BaseException) -> list[str]:
    """The innermost calls, for whoever mends it without the machine."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def _free() -> None:
    gc.collect()
    free_memory()
