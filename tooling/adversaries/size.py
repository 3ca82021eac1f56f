"""Which trained models families A and B are tried on: the sizes of the power study that were trained, and a brief one.

A size of the study has the study's own models, from the same artefact store: what `docs/power.json` says of a size is about
the very weights that are attacked here, and none is trained twice on a machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from tooling.adversaries.deviations.workbench import Folders
from tooling.studies.power_sizes import models
from tooling.studies.power_sizes.models import FINAL, ModelRecipe
from tooling.studies.power_sizes.sized_bench import Models
from tooling.studies.power_sizes.sizes import SIZES, smaller_than, stranger_to
from tooling.testing.models import language_model
from tooling.testing.models.artefacts import Artefacts
from tooling.testing.models.corpus import Corpus


@dataclass(frozen=True)
class Size:
    """`make` gives the network's model, a smaller one of the same vocabulary, and a stranger of its width."""

    name: str
    make: Callable[[Artefacts, Corpus], Models]


def _studied(name: str, store: Artefacts, corpus: Corpus) -> Models:
    recipe = SIZES[name].judged

    def folder(of: ModelRecipe) -> Path:
        return models.make(store, corpus, of, _say).folder / FINAL

    made = models.make(store, corpus, recipe, _say)
    folders = Folders(made.folder / FINAL, folder(smaller_than(recipe)), folder(stranger_to(recipe)))
    return Models(folders, recipe.trained, store, f"{made.digest} {FINAL}")


def _brief(store: Artefacts, corpus: Corpus) -> Models:
    policy = language_model.language_model(store, corpus, language_model.BRIEF)
    smaller = replace(language_model.BRIEF, hidden=32, layers=2, heads=2, intermediate=96, seed=12)
    stranger = replace(language_model.BRIEF, steps=1, seed=13)
    others = [language_model.language_model(store, corpus, shape).folder for shape in (smaller, stranger)]
    return Models(Folders(policy.folder, *others), True, store, policy.digest)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


STUDIED: Final = {name: Size(name, partial(_studied, name)) for name, size in SIZES.items() if size.judged.trained}
"""By the name that the study has for it; of random weights no earlier checkpoint is an optimiser's step away."""

QUICK: Final = Size("quick", _brief)
"""Trained for seconds."""
