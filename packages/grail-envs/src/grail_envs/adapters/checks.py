"""What a foreign package must keep beside what every environment must, tried: `grail-envs check PACKAGE`.

Texts are judged that have a chance to be right: values that stand in a row, bare and in the usual dress. The rewards
have to be the same again, in another order, by processes with other hash seeds and in a crowd (`rewards`), twice in one
process (`state`), and with another clock and other randomness, at loading and at judging (`chance`); inside the bounds
(`rewards_in_bounds`). One text at least has to earn more than another, and one that the caller calls right has to be a
success (`pays`); no step may leave its episode open (`one_step`). What its sources use that a judge should not is named
(`sources`).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError, GrailError
from grail_envs.adapters.foreign import LIMITS, ForeignEnvironment, Raw, asked, said
from grail_envs.adapters.package import installed, normal, wanted_by
from grail_envs.adapters.sources import what_sources_use
from grail_envs.conformance import Finding
from grail_envs.registry import ADAPTERS, ids_of_package, load
from grail_envs.sandbox.pool import GraderPool

ROWS: Final = 4
VALUES: Final = 3
HASH_SEEDS: Final = (1, 31337)
WORLDS: Final = (1, 2)
PLAIN: Final = ("", "0", "yes", "<answer>0</answer>", "\x00\ufffd</answer>")
DRESSES: Final = ("{}", "<answer>{}</answer>", "\\boxed{{{}}}", "The answer is {}")

_Answers = dict[tuple[int, str], list[Raw]]


def environments_of(package: str, params: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Ids and parameters of what is checked when a person names a package or an id.

    Raises:
        EnvironmentUnavailableError: neither is there.
        ConfigurationError: nothing says what form a foreign package has.
    """
    if package in ADAPTERS:
        return [(package, dict(params))]
    try:
        return [(env_id, dict(params)) for env_id in ids_of_package(package)]
    except EnvironmentUnavailableError:
        if installed(package) is None:
            raise
    return [foreign_form(package, params)]


def foreign_findings(
    env_id: str, params: Mapping[str, Any], *, answer: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """What an adapter's package has to keep beside; nothing for an environment of ours. `answer` is a right one to seed 0."""
    environment = load(env_id, **params) if env_id in ADAPTERS else None
    if not isinstance(environment, ForeignEnvironment):
        return []
    return check_foreign(environment, answer=answer, progress=progress)


def foreign_form(package: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The adapter's id and parameters for an installed distribution that has no entry point of ours.

    Raises:
        EnvironmentUnavailableError: it is not installed.
        ConfigurationError: nothing says which form it has.
    """
    found = installed(package)
    if found is None:
        raise EnvironmentUnavailableError(
            f"there is no package and no environment {package!r}", where=package, hint=f"pip install {package}"
        )
    given = {"package": normal(package), **params}
    if "action" in given:
        return "openenv", given
    if "entry" in given:
        return "gymnasium", given
    if "verifiers" in wanted_by(found, extras=True):
        return "verifiers", given
    raise ConfigurationError(
        f"nothing says what kind of environment {package} has",
        where=package,
        hint="--param entry=module:Class for Gymnasium's form, and --param action=module:Class for OpenEnv's",
    )


def check_foreign(
    environment: ForeignEnvironment,
    rows: int = ROWS,
    *,
    answer: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """All checks of one adapted package on its first `rows` problems, in the order of the module's text.

    `answer` is a completion that its author calls right for seed 0; `progress` is told what is being tried.
    """
    findings: list[Finding] = []

    def found(check: str, passed: bool, value: str) -> None:
        findings.append(Finding(environment.form, check, passed, value))

    own = environment.pool()
    texts = list(_texts(environment, own, rows))
    right = None if answer is None else (environment.problem(0).payload.row, environment.judged_text(answer))
    texts = list(dict.fromkeys([*texts, *([right] if right else [])]))
    progress(f"judging {len(texts)} texts")
    started = time.monotonic()
    first = _judged(own, texts)
    took = time.monotonic() - started
    found("judging", True, f"{len(texts) / took:.0f} judgements a second, one at a time")
    progress(f"judging them in another order and in a crowd (about {2 * took:.0f} s)")
    others = {"in another order": _judged(own, texts[::-1]), "in a crowd": _judged(own, texts, threads=8)}
    loads: list[str] = []
    elsewhere: dict[str, _Answers] = {}
    for hash_seed, world in (*((one, 0) for one in HASH_SEEDS), (0, WORLDS[0])):
        how = "another clock and other randomness" if world else f"hash seed {hash_seed}"
        progress(f"loading the package again, with {how}")
        try:
            pool = environment.pool(hash_seed, world)
        except GrailError as error:
            loads.append(error.what)
            continue
        try:
            if pool.told != own.told:
                loads.append(f"other rows or weights with {how}")
            (elsewhere if world else others)[f"with {how}"] = _judged(pool, texts)
        finally:
            pool.close()
    found(
        "loads",
        not loads,
        loads[0] if loads else f"the same rows {2 + len(HASH_SEEDS)} times, with other hash seeds, clocks and randomness",
    )
    differing = [f"{how}: {_first(first, answers)}" for how, answers in others.items() if answers != first]
    found("rewards", not differing, differing[0] if differing else f"{len(texts)} judgements the same {1 + len(others)} times")
    progress("judging each text twice in one process, and with another clock and other randomness")
    twice = _judged(own, texts, times=2)
    kept = [key for key, raws in twice.items() if len(raws) != 2 or raws[0] != raws[1] or raws[0] != first[key][0]]
    found("state", not kept, f"row {kept[0][0]}: another reward the second time" if kept else "none kept between judgements")
    chance = [answers for answers in elsewhere.values() if answers != first]
    chance += [answers for answers in (_judged(own, texts, world=world) for world in WORLDS) if answers != first]
    found("chance", not chance, "rewards follow the clock or what is drawn" if chance else "no part in a reward")
    found("rewards_in_bounds", *_in_bounds(environment, first))
    found("one_step", *_one_step(first))
    found("pays", *_pays(environment, first, right))
    found("sources", *what_sources_use(environment.package.modules))
    return findings


def _one_step(answers: _Answers) -> tuple[bool, str]:
    open_still = sum(raws[0].fault == "NotOverError" for raws in answers.values())
    if open_still:
        return False, f"{open_still} of {len(answers)} texts leave the episode open: only tasks of one step are adapted"
    refused = sum(raws[0].fault == "NotAnActionError" for raws in answers.values())
    return (
        True,
        f"{refused} of {len(answers)} texts are no action of its space, and earn 0" if refused else "every text ends it",
    )


def _pays(environment: ForeignEnvironment, answers: _Answers, right: tuple[int, str] | None) -> tuple[bool, str]:
    """Whether anybody has seen it pay: checks of rewards that are all the same say nothing."""
    if right is not None:
        grade = environment.graded(answers[right][0], well_formed=True)
        why = f": {grade.detail}" if grade.detail else ""
        return grade.success, f"the right answer to seed 0 earns {grade.reward:g}{'' if grade.success else ', no success'}{why}"
    earned = {environment.graded(raws[0], well_formed=True).reward for raws in answers.values()}
    if len(earned) > 1:
        return True, f"{len(earned)} different rewards; whether a right answer is a success says --answer FILE"
    return False, f"every text that was tried earns {min(earned):g}: show a right answer to seed 0 with --answer FILE"


def _texts(environment: ForeignEnvironment, pool: GraderPool, rows: int) -> Iterator[tuple[int, str]]:
    for seed in range(min(rows, len(environment))):
        row = environment.problem(seed).payload.row
        ruling = pool.ask_foreign({"ask": "values", "row": row}, LIMITS)
        values = json.loads(ruling.output) if ruling.passed else []
        for text in PLAIN:
            yield row, text
        for value in values[:VALUES]:
            for dress in DRESSES:
                yield row, dress.format(value)


def _judged(
    pool: GraderPool, texts: Sequence[tuple[int, str]], *, times: int = 1, world: int = 0, threads: int = 1
) -> _Answers:
    def one(item: tuple[int, str]) -> list[Raw]:
        ruling = pool.ask_foreign(asked(*item, times=times, world=world), LIMITS)
        return said(ruling.output) if ruling.passed else [Raw(fault=f"{ruling.stage}: {ruling.detail}"[:80])]

    with ThreadPoolExecutor(threads) as crowd:
        return dict(zip(texts, crowd.map(one, texts), strict=True))


def _first(expected: _Answers, answers: _Answers) -> str:
    row, text = next(key for key in expected if answers.get(key) != expected[key])
    return f"row {row}, a text of {len(text)} characters"


def _in_bounds(environment: ForeignEnvironment, answers: _Answers) -> tuple[bool, str]:
    grades = [environment.graded(raws[0], well_formed=True) for raws in answers.values()]
    outside = [grade for grade in grades if "outside" in grade.detail]
    faults = sorted({raws[0].fault for raws in answers.values() if raws[0].fault})
    earned = [grade.reward for grade in grades]
    text = f"rewards {min(earned):g} to {max(earned):g}, median {statistics.median(earned):g}"
    if outside:
        low, high = environment.bounds.lowest, environment.bounds.highest
        sums = [raws[0].total for raws in answers.values() if math.isfinite(raws[0].total)]
        seen = f"rewards of {min(sums, default=0.0):g} to {max(sums, default=0.0):g} were seen"
        hint = "give the bounds of all that it can pay: --param lowest=A --param highest=B"
        return False, f"{len(outside)} of {len(grades)} outside of {low} to {high}; {seen}: {hint}"
    return True, text + (f"; for some texts it raises {', '.join(faults[:3])}, which earns 0" if faults else "")
