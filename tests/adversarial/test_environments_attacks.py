"""E1, E2, E10: hostile programs and texts are contained, and honest flaky answers are not rejected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grail_envs.sandbox import GraderPool, Limits, SandboxUnavailableError
from tooling.adversaries import family_e
from tooling.adversaries.hostile_programs import PROGRAMS


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    try:
        pool = GraderPool("strict")
    except SandboxUnavailableError as error:
        pytest.skip(f"no complete sandbox here: {error.what}")
    yield pool
    pool.close()


def test_no_hostile_program_passes_or_escapes_and_honest_answers_after_it_do(pool: GraderPool) -> None:
    assert len(PROGRAMS) >= 40
    row = family_e.run_e1(pool=pool, limits=Limits(cpu_s=0.2, wall_s=0.4, memory_bytes=2**29))
    assert [item for item in row["details"] if item["accepted"]] == []
    assert row["tries"] == len(PROGRAMS)
    assert row["honest_tries"] >= 100
    assert row["honest_false_rejects"] == 0


def test_the_detector_of_escapes_detects(pool: GraderPool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same programs, with the secret where the sandbox does let them look: what would be an escape is seen as one."""
    canaries = family_e.Canaries.placed(tmp_path_factory.mktemp("canaries"))
    try:
        honest = pool.grade(family_e.suite_of(family_e.HONEST), family_e.E1_LIMITS)
        assert not canaries.broken(honest)
        told = pool.grade(family_e.suite_of(f"raise ValueError({canaries.secret!r})"), family_e.E1_LIMITS)
        assert canaries.broken(told)
        (canaries.folder / "written").write_text("x")
        assert canaries.broken(honest)
    finally:
        canaries.close()


def test_flaky_honest_answers_are_not_rejected(pool: GraderPool) -> None:
    row = family_e.run_e10(tries=60)
    assert row["rejected"] == []
    assert row["honest_false_rejects"] == 0


def test_the_check_rejects_a_false_claim(pool: GraderPool) -> None:
    """The honest twin's rule is not one that accepts everything."""
    job = family_e.suite_of("def target(n): return 0")
    assert family_e.check_six(True, lambda: pool.grade(job)) == "reject"


@pytest.mark.heavy
def test_no_hostile_text_exhausts_a_grader() -> None:
    row = family_e.run_e2()
    assert [item for item in row["details"] if item["accepted"]] == []
    assert row["honest_false_rejects"] == 0
