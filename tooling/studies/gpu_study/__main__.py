"""`python -m tooling.studies.gpu_study`, which `hatch run gpu-study` runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tooling.studies.gpu_study.shapes import DEFAULT_SHAPES, SHAPES

BUDGET_S = 450.0
_SECTIONS = ("throughput", "drift", "deviations", "cpu", "bit-equal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 1 where anything failed, after everything else was measured."""
    options = _options(arguments)
    import torch

    from grail_core.errors import ConfigurationError
    from grail_core.model.policy_model import require_device
    from tooling.studies.gpu_study import report, study

    try:
        require_device(options.device)
    except ConfigurationError as error:
        print(f"error: {ConfigurationError(error.what, where=f'--device {options.device}', hint=error.hint)}", file=sys.stderr)
        return error.exit_code
    on = torch.device(options.device)

    def say(text: str) -> None:
        print(f"gpu-study: {text}", file=sys.stderr, flush=True)

    work = study.Study(on, options.shapes, options.sections, options.budget_s, out=options.out, say=say)
    if not work.planned:
        print(f"error: no section of {', '.join(options.sections)} is of {', '.join(options.shapes)}", file=sys.stderr)
        return 2
    found = work.run()
    print(json.dumps(found) if options.as_json else report.table(found))
    return 1 if study.failures(found) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hatch run gpu-study", description="What one GPU tells of the proof.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers in place of the shapes: does it run?")
    default = ",".join(DEFAULT_SHAPES)
    parser.add_argument("--shapes", help=f"of {', '.join(SHAPES)} (default: {default})")
    parser.add_argument("--sections", default=",".join(_SECTIONS), help="(default: all, %(default)s)")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for everything (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu-study.json"), help="JSON, also of an unfinished run")
    parser.add_argument("--json", action="store_true", dest="as_json", help="the same JSON on standard output, no table")
    options = parser.parse_args(arguments)
    if options.tiny and options.shapes is not None:
        parser.error("--tiny is a shape of its own: give either it or --shapes")
    options.shapes = tuple(("tiny" if options.tiny else options.shapes or default).split(","))
    options.sections = tuple(options.sections.split(","))
    for given, known, what in ((options.shapes, SHAPES, "shape"), (options.sections, _SECTIONS, "section")):
        for one in given:
            if one not in known:
                parser.error(f"no such {what}: {one} (of {', '.join(known)})")
    if options.out.is_dir() or not os.access(options.out.absolute().parent, os.W_OK):
        parser.error(f"--out {options.out}: a file in a folder that exists and can be written")
    if not options.budget_s > 0:
        parser.error("--budget-s must be above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
