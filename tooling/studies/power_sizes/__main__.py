"""`power`: what the proof detects at every size, what it costs honest work, and the table that validators decide by.

    hatch run bench power --sizes --json         every size; one flat object, nothing else on standard output
    hatch run bench power                        the smallest size alone, by the table that ships
    python -m tooling.studies.power_sizes        the table for a person; writes docs/power.json, the tables of docs/proof.md
                                                 and the shipped calibration table
    python -m tooling.studies.power_sizes --model FOLDER
                                                 any local Transformers folder (config.json, tokenizer.json, *.safetensors)
                                                 by the table that ships; writes nothing but its cache

Models, texts and measurements are kept in the project's cache folder (GRAIL_CACHE_DIR) under the digest of their recipes: about
an hour of two cores the first time, minutes of judging then. The text is GSM8K from GRAIL_DATA_DIR, or the language reference
that every CPython ships.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from grail_core.proof.calibration import CALIBRATION_FILE, CalibrationTable, shipped_table
from grail_core.protocol.constants import FALSE_REJECT_RATE
from tooling import REPOSITORY
from tooling.studies.power_sizes import report, results
from tooling.studies.power_sizes.folder import FOLDER_FILES, FolderStudy
from tooling.studies.power_sizes.judge import Bench, comparisons, false_rejects
from tooling.studies.power_sizes.sizes import SIZES
from tooling.studies.power_sizes.study import KINDS, SizeStudy
from tooling.studies.power_sizes.table import Condition, condition_of, fit
from tooling.testing.models.artefacts import Artefacts, default_folder
from tooling.testing.models.corpus import Corpus, load_corpus

_DOCS: Final = REPOSITORY / "docs"
_SHIPPED: Final = REPOSITORY / "packages/grail-core/src/grail_core/proof" / CALIBRATION_FILE
_FOLDER_GROUPS, _FOLDER_LIMIT = 4, 64


def measure(*, sizes: bool = False) -> dict[str, float | str]:
    """Every figure by its key, of all sizes or of the smallest alone; the table goes to standard output.

    All sizes are judged by the table fitted to them here, the smallest alone by the one that ships.
    """
    found = _every_size() if sizes else _alone(_study(next(iter(SIZES)), *_material()))
    print(report.table(found))
    return report.flat(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tooling.studies.power_sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a local Transformers folder in place of the study's own models")
    parser.add_argument("--groups", type=int, default=_FOLDER_GROUPS, help="of 16 rollouts each, with --model (%(default)s)")
    parser.add_argument(
        "--limit", type=int, default=_FOLDER_LIMIT, help="completion tokens of a rollout, with --model (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    if options.groups < 1 or options.limit < 1:
        parser.error("--groups and --limit are 1 at least")
    if options.model is not None:
        if lacking := [name for name in FOLDER_FILES if not any(options.model.glob(name))]:
            parser.error(f"{options.model} is no Transformers folder: it has no {' and no '.join(lacking)}")
        found = _alone(FolderStudy(options.model, options.groups, options.limit, *_material(), _say))
    else:
        found = _every_size()
        _SHIPPED.write_bytes(CalibrationTable.from_json(found["table"]).to_bytes())
        report.publish(found, _DOCS)
    print(json.dumps(report.flat(found)) if options.as_json else report.table(found))
    return 0


def _say(text: str) -> None:
    print(f"power: {text}", file=sys.stderr, flush=True)


def _material() -> tuple[Artefacts, Corpus]:
    torch.set_num_threads(1)
    return Artefacts(default_folder()), load_corpus()


def _study(name: str, store: Artefacts, corpus: Corpus) -> SizeStudy:
    return SizeStudy(SIZES[name], store, corpus, _say)


def _every_size() -> dict[str, Any]:
    store, corpus = _material()
    conditions = [one for name in SIZES for one in conditions_of(_study(name, store, corpus))]
    table = fit(conditions)
    found = _said(table, corpus)
    for name in SIZES:
        study = _study(name, store, corpus)
        of_size = results.judged(study, table, store, _say)
        found["sizes"].append(of_size | {"without": _by_table_without(study, conditions)})
    return found


def _alone(study: SizeStudy) -> dict[str, Any]:
    store, corpus = _material()
    table = shipped_table()
    return _said(table, corpus) | {"sizes": [results.judged(study, table, store, _say)]}


def _said(table: CalibrationTable, corpus: Corpus) -> dict[str, Any]:
    return {
        "where": f"{platform.machine()} CPU, one thread, torch {torch.__version__}, transformers {transformers.__version__}",
        "corpus": corpus.name,
        "false_reject_rate": FALSE_REJECT_RATE,
        "table": table.to_json(),
        "sizes": [],
    }


def conditions_of(study: SizeStudy) -> list[Condition]:
    """What the table is fitted to, of one size."""
    shape = results.shape_of(study)
    found = []
    for checkpoint, runs in study.fitted():
        for kind in KINDS:
            measured = [run for run in runs if run.name.endswith(f"measured in {kind}")]
            found += [condition_of(study.size.name, shape, checkpoint, run, kind) for run in measured]
    return found


def _by_table_without(study: SizeStudy, conditions: Sequence[Condition]) -> dict[str, Any]:
    """The same honest windows by nulls that have not seen this shape, enforced as if they were of as much as all."""
    shape, whole = results.shape_of(study), fit(conditions)
    if all(one.shape != shape for one in conditions):
        return {"windows": 0, "rejected": 0}  # no table has seen it
    others = fit(conditions, without=shape)
    pairs = {names: replace(pair, nulls=others.pairs[names].nulls) for names, pair in whole.pairs.items()}
    table = replace(whole, pairs=pairs)
    windows = rejected = 0
    for run in study.held_out():
        some, bad, _ = false_rejects(comparisons(run), Bench.of(table, run, shape))
        windows, rejected = windows + some, rejected + bad
    return {"windows": windows, "rejected": rejected}


if __name__ == "__main__":
    sys.exit(main())
