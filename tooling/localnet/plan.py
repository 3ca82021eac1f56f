"""What a run shall be, and the state file by which a second start in the same folder goes on with it.

A plan is fixed for the life of a folder, except for the number of windows, which a later start may raise. The state file is
written atomically; a folder that holds another plan is refused, with every difference named.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError
from tooling.localnet.report.facts import NotWaitedFact, ProcessFact

STATE_FORMAT = 1
MAY_CHANGE = frozenset({"windows", "evaluation_problems", "data_dir", "chaos", "control", "audit", "patience_s"})
HONEST = "honest"
GROUPS, QUICK_GROUPS = 16, 8  # of 16 rollouts, per miner and window: what two processors do in a few seconds
SHAPED_STEPS = 80  # of each stage of a larger model's warm start: 70 s of one processor for 12x512
BLOCK_SECONDS = 1.5  # with the real clock
SHAPED_BLOCK_SECONDS = 30.0  # of chain time with a larger model: judging a file may take its share of a window, and no longer
EVALUATION_PROBLEMS, QUICK_EVALUATION_PROBLEMS = 2048, 256
ROLLOUTS, GRADIENT = "rollouts", "gradient"  # kinds of work
LOCAL, BITTENSOR_SIM = "local", "bittensor-sim"  # the development chain itself, or the bittensor SDK over it
FOLDERS, S3 = "folders", "s3"  # kinds of buckets


@dataclass(frozen=True)
class Plan:
    """Everything the command line decides. `learning_rate` None: the trainer's default."""

    windows: int
    env_id: str
    seed: int
    quick: bool
    miners: int  # honest ones
    cheats: tuple[str, ...]
    validators: int
    block_time_ms: int
    real_time: bool = False  # blocks come by the wall clock, not by the work
    clock_rate: float = 1.0  # with the wall clock: chain seconds a real one
    safety_blocks: int | None = None  # GRAIL_MINER_SAFETY_BLOCKS of its miners; None: the default, or the conductor's
    groups: int | None = None  # of 16 rollouts, most per miner and window; None: what the plan's size says
    model: str | None = None  # a Transformers folder; None: grail-trainer init makes one
    model_shape: str | None = None  # of the one that is made, "12x512"; None: the trainer's default
    data_dir: str | None = None
    learning_rate: str | None = None
    evaluation_problems: int = EVALUATION_PROBLEMS
    control: bool = False
    audit: bool = False  # the trainer's windows are repeated at the end
    chaos: bool = False
    dying: bool = False  # the last validator kills itself in every other window (`doomed`)
    commit_reveal: bool = False  # weights are committed, and in force some blocks later
    newcomer: bool = False  # the subnet is full, and somebody takes a miner's UID before weights are set
    work: str = ROLLOUTS
    chain: str = LOCAL  # how roles reach the chain's file
    store: str = FOLDERS
    store_faults: str | None = None  # file of what goes wrong on the line to the store (`faulty_proxy`)
    patience_s: float = 300.0  # real time that a role may hold the clock; by the real one, of standing still at the end

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"cheats": list(self.cheats)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """Inverse of `to_json`. Plans of version 0.1.0 have no `real_time`: they knew no other."""
        return cls(**{"real_time": True, **value, "cheats": tuple(value["cheats"])})

    def miner_strategies(self) -> tuple[tuple[str, str], ...]:
        """(name, strategy) of every miner, the honest ones first."""
        strategies = (HONEST,) * self.miners + self.cheats
        return tuple((f"miner-{i}", strategy) for i, strategy in enumerate(strategies, start=1))

    def validator_names(self) -> tuple[str, ...]:
        return tuple(f"validator-{i}" for i in range(1, self.validators + 1))

    @property
    def doomed(self) -> str | None:
        """The validator that dies again and again, if one does."""
        return self.validator_names()[-1] if self.dying else None


@dataclass(frozen=True)
class Layout:
    """Where things lie in the folder of a run."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        return self.root / ".localnet-lock"

    @property
    def network(self) -> Path:
        return self.root / "network.json"

    @property
    def deaths(self) -> Path:
        """What is known of a validator that kills itself."""
        return self.root / "deaths"

    @property
    def chain(self) -> Path:
        return self.root / "chain.sqlite"

    @property
    def wallets(self) -> Path:
        return self.root / "wallets"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def remote_stores(self) -> Path:
        """Where the buckets of a run are that uses S3, and their keys."""
        return self.root / "s3.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def control(self) -> Path:
        return self.root / "control"

    def cache(self, name: str) -> Path:
        """What a role can fetch again."""
        return self.root / "cache" / name

    def state_of(self, name: str) -> Path:
        """What a role must not lose."""
        return self.root / "state" / name


@dataclass(frozen=True)
class State:
    """What a resumed run must know besides its plan. Written with every start and whenever a field changes."""

    plan: Plan
    started_at: str  # ISO 8601, UTC
    seconds_before: float = 0.0  # wall time of earlier starts
    starts: int = 1
    finished: bool = False  # every window is judged and trained on; evaluation may still be missing
    chaos_done: tuple[str, ...] = ()
    processes: tuple[ProcessFact, ...] = ()  # of earlier starts
    seconds_in_windows: float = 0.0  # real time of earlier starts, from the first window on
    not_waited: tuple[NotWaitedFact, ...] = ()  # in earlier starts

    def write(self, path: Path) -> None:
        value = dataclasses.asdict(self) | {"format": STATE_FORMAT, "plan": self.plan.to_json()}
        write_atomically(path, json.dumps(value, indent=1).encode())


def load_or_create_state(plan: Plan, layout: Layout) -> tuple[State, bool]:
    """The state of this folder for this plan, and whether it resumes one that was there.

    Raises:
        ConfigurationError: the folder belongs to another plan, or is not a localnet folder.
    """
    if not layout.state.exists():
        strangers = _strangers(layout)
        if strangers:
            raise ConfigurationError(
                f"the output folder is not empty and holds no localnet ({', '.join(strangers[:3])})",
                where=str(layout.root),
                hint="choose another folder with --out, or empty this one",
            )
        state = State(plan, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        state.write(layout.state)
        return state, False
    known = _read(layout.state)
    old, new = known.plan.to_json(), plan.to_json()
    differences = [f"{k} was {old[k]!r}, now {new[k]!r}" for k in new if old[k] != new[k] and k not in MAY_CHANGE]
    if plan.windows < known.plan.windows:
        differences.append(f"windows was {old['windows']}, now fewer: {new['windows']}")
    if differences:
        raise ConfigurationError(
            f"this folder holds another run: {'; '.join(differences)}",
            where=str(layout.root),
            hint=f"resume it with the same options{_clock_option(known.plan, plan)}, or choose another folder with --out",
        )
    finished = known.finished and plan.windows == known.plan.windows
    state = dataclasses.replace(known, plan=plan, starts=known.starts + 1, finished=finished)
    state.write(layout.state)
    return state, True


def _clock_option(known: Plan, plan: Plan) -> str:
    if known.real_time == plan.real_time:
        return ""
    return " (with --real-time)" if known.real_time else " (without --real-time)"


def _read(path: Path) -> State:
    try:
        value = json.loads(path.read_bytes())
        if value.pop("format") != STATE_FORMAT:
            raise ValueError("it is of another format")
        processes = (ProcessFact(**{**p, "exit_codes": tuple(p["exit_codes"])}) for p in value.pop("processes"))
        not_waited = (NotWaitedFact(**n) for n in value.pop("not_waited", ()))
        plan, chaos_done = Plan.from_json(value.pop("plan")), tuple(value.pop("chaos_done"))
        return State(plan, chaos_done=chaos_done, processes=tuple(processes), not_waited=tuple(not_waited), **value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the state file cannot be read: {error}", where=str(path), hint="choose another folder with --out"
        ) from error


def _strangers(layout: Layout) -> list[str]:
    root = layout.root
    try:
        return sorted(p.name for p in root.iterdir() if p != layout.lock) if root.exists() else []
    except OSError as error:
        raise ConfigurationError(f"the output folder cannot be read: {error.strerror}", where=str(root)) from error
