"""What families A and B share: a scene with a trained model, and tries before the checks.

A scene has one network with several miners; a try is one file of one miner, so each try has problems and seeds of its own,
and the honest twin of a try is the same miner's honest file in the same window.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.constants import CHECK_ALL_BELOW, ROLLOUTS_PER_PROBLEM, WINDOW_LENGTH
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Window
from grail_miner.groups import Group
from tooling import REPOSITORY
from tooling.adversaries.courtroom import Courtroom, CourtSetting, Ruling
from tooling.adversaries.deviations.catalogue import all_deviations
from tooling.adversaries.deviations.deviation import Deviation, Produced
from tooling.adversaries.deviations.observation import Setting
from tooling.adversaries.deviations.provers import HonestModels
from tooling.adversaries.deviations.workbench import Folders
from tooling.adversaries.quick import UNDECIDED
from tooling.adversaries.rows import Row
from tooling.adversaries.size import QUICK, STUDIED, Size
from tooling.studies.power_sizes.sized_bench import SizedBench
from tooling.testing.models.artefacts import Artefacts, default_folder
from tooling.testing.models.corpus import load_corpus
from tooling.testing.small_network import FIRST_WINDOW

WINDOW_GROUPS = CHECK_ALL_BELOW // ROLLOUTS_PER_PROBLEM
POWER_FILE = REPOSITORY / "docs" / "power.json"


@dataclass(frozen=True)
class Extent:
    """How much a row tries. `size` names the trained models; `tries` are files a deviation, `limit` completion tokens."""

    size: Size
    tries: int
    limit: int
    window_groups: int = WINDOW_GROUPS
    seed: int = 0  # another seed is another window, with other problems and other randomness
    undecided: frozenset[str] = frozenset()  # deviations of which a file of this size says nothing
    threads: int = 1  # of torch: what a larger model has a use for

    @property
    def window(self) -> Window:
        return Window(FIRST_WINDOW + WINDOW_LENGTH * (self.seed % 16))


DEFAULT_SIZE = "4x128"
WHOLE = {
    DEFAULT_SIZE: Extent(STUDIED[DEFAULT_SIZE], tries=2, limit=64),
    "6x256": Extent(STUDIED["6x256"], tries=1, limit=64),
    "12x512": Extent(STUDIED["12x512"], tries=1, limit=48, threads=2),
}
"""By `--size`. Passes of the larger models are most of a run, so there is one file of each deviation."""

BRIEF = Extent(QUICK, tries=1, limit=24, window_groups=2)
"""For tests: a model trained for seconds, and half a window."""

SWIFT = Extent(QUICK, tries=1, limit=64, undecided=UNDECIDED)
"""For `--quick`: the model of the tests, and whole windows."""

_STEPS = ("1e-6", "3e-6", "1e-5")
"""Learning rates of the steps between the checkpoints before and this one; a validator has all three."""


class Scene:
    """A courtroom and the means of all deviations, for as many miners as there are tries.

    Args:
        model: in place of the size's. It has no checkpoints before it.
    """

    def __init__(
        self, folder: Path, extent: Extent, store: Artefacts, model: Path | None = None, end: int | None = None
    ) -> None:
        self.extent, self.store = extent, store
        self.corpus = load_corpus()
        made = extent.size.make(store, self.corpus)
        self.models = replace(made, folders=replace(made.folders, policy=model)) if model else made
        self.loaded = HonestModels(self.folders.policy)
        earlier = {} if model else {f"previous-{n}": partial(self._state_before, rate) for n, rate in enumerate(_STEPS, 1)}
        self.court = Courtroom(
            folder,
            self.folders.policy,
            max_tokens=extent.limit,
            miners=max(2, extent.tries),
            end=end,
            window=extent.window,
            earlier=earlier,
        )
        torch.set_num_threads(extent.threads)
        self._honest: dict[tuple[int, int], list[Group]] = {}
        self._rulings: dict[tuple[int, int], Ruling] = {}
        self._benches: dict[tuple[int, int], SizedBench] = {}

    @property
    def folders(self) -> Folders:
        return self.models.folders

    def before(self, miner: int) -> Courtroom:
        return self.court.before(miner)

    def bench(self, miner: int, groups: int) -> SizedBench:
        """The deviations' tools over this miner's own prompts and seeds."""
        if (miner, groups) not in self._benches:
            court = self.before(miner)
            setting = CourtSetting("court", GenerationPolicy(self.extent.limit), court=court)
            prompts = [court.prompt(group) for group in range(groups)]
            limit = self.extent.limit
            bench = SizedBench(self.models, self.corpus, setting, groups, limit, prompts=prompts, loaded=self.loaded)
            bench.end, bench.older = self.court.end, self._older
            self._benches[miner, groups] = bench
        return self._benches[miner, groups]

    @cached_property
    def _older(self) -> dict[str, PolicyModel]:
        """The checkpoints before this one by the learning rate of the step between: one model each for miner and validator."""
        setting = Setting("the scene", GenerationPolicy(self.extent.limit))
        return SizedBench(self.models, self.corpus, setting, 1, self.extent.limit, loaded=self.loaded).older

    def _state_before(self, rate: str) -> Mapping[str, torch.Tensor]:
        return self._older[rate].state()

    def honest(self, miner: int, groups: int) -> list[Group]:
        if (miner, groups) not in self._honest:
            self._honest[miner, groups] = self.before(miner).honest(range(groups))
        return self._honest[miner, groups]

    def honest_ruling(self, miner: int, groups: int) -> Ruling:
        if (miner, groups) not in self._rulings:
            self._rulings[miner, groups] = self.examine(miner, self.honest(miner, groups))
        return self._rulings[miner, groups]

    def examine(self, miner: int, groups: Sequence[Group]) -> Ruling:
        """All nine checks on the file of these groups, the alternatives among them."""
        court = self.before(miner)
        return court.examine(court.pack(groups))

    def submit(self, row: Row, name: str, miner: int, produced: Produced) -> None:
        """Rollouts and claims as a consistent liar packs them, judged and entered in the row."""
        row.add(name, self.examine(miner, self.before(miner).groups_of(*produced)))


@contextmanager
def open_scene(
    extent: Extent, *, store: Artefacts | None = None, model: Path | None = None, end: int | None = None
) -> Iterator[Scene]:
    """A scene for as long as the block lasts. `store` holds the trained models: the project's cache unless given."""
    folder = Path(tempfile.mkdtemp(prefix="grail-attacks-"))
    try:
        yield Scene(folder, extent, store or Artefacts(default_folder()), model, end)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=2)
def shared_scene(extent: Extent) -> Scene:
    """One scene for a whole run of attacks; its folder goes when the process ends."""
    opened = open_scene(extent)
    atexit.register(opened.__exit__, None, None, None)
    return opened.__enter__()


def attacks_of(runs: Mapping[str, Callable[[Scene], Row]]) -> dict[str, Callable[..., dict[str, Any]]]:
    """A family's rows by id, each over the run's one scene; `tries` None: as many as the size has."""

    def attack(
        run: Callable[[Scene], Row],
        *,
        seed: int = 0,
        tries: int | None = None,
        quick: bool = False,
        size: str = DEFAULT_SIZE,
    ) -> dict[str, Any]:
        extent = SWIFT if quick else WHOLE[size]
        row = run(shared_scene(replace(extent, seed=seed, tries=tries or extent.tries)))
        return row.to_json() | {"size": extent.size.name}

    return {id_: partial(attack, run) for id_, run in runs.items()}


@lru_cache(maxsize=1)
def deviations() -> dict[str, Deviation]:
    return all_deviations()


def run_deviations(scene: Scene, row: Row, names: Sequence[str], groups: int, *, power: bool = False) -> Row:
    """Every named deviation as `tries` files of so many groups, each with its honest twin.

    Args:
        power: whether they are held against the power that is published for this size, in place of: none may pass. What has no
            published power at this size is counted and claimed neither way.
    """
    try_deviations(scene, row, names, groups)
    if power and scene.extent.size.name in STUDIED:
        published = {name: published_power(name, scene.extent.size.name) for name in names}
        row.power |= {name: found for name, found in published.items() if found is not None}
        row.undecided |= {name for name, found in published.items() if found is None}
    for miner in range(scene.extent.tries):
        row.honest(scene.honest_ruling(miner, groups))
    return row


def try_deviations(scene: Scene, row: Row, names: Sequence[str], groups: int) -> Row:
    """Every named deviation as `tries` files of so many groups."""
    row.undecided |= scene.extent.undecided.intersection(names)
    for name in names:
        for miner in range(scene.extent.tries):
            try_deviation(scene, row, name, miner, groups)
    return row


def try_deviation(scene: Scene, row: Row, name: str, miner: int, groups: int) -> None:
    """One file of one miner."""
    bench = scene.bench(miner, groups)
    scene.submit(row, name, miner, deviations()[name].produce(bench))
    bench.forget()


def published_power(name: str, size: str) -> dict[str, float] | None:
    """Power of one 64-rollout window with its 95 % interval, from the study's published result; None where it has none."""
    for of_size in json.loads(POWER_FILE.read_text()).get("sizes", ()):
        for entry in of_size["deviations"] if of_size["name"] == size else ():
            if entry["name"] == name:
                return {key: float(entry["enforced_window_power"][key]) for key in ("value", "low", "high")}
    return None
