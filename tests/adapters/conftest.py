"""Libraries of other people have environments of their own, `hatch run adapters:test` and `adapters-classic:test`.

Elsewhere these tests are not collected.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pytest

from grail_envs.adapters.consent import PACKAGES_VARIABLE

try:
    CLASSIC = tuple(int(part) for part in version("verifiers").split(".")[:2]) < (0, 4)
    collect_ignore = ["test_task_sets.py"] if CLASSIC else ["test_load_environment.py"]
except PackageNotFoundError:
    collect_ignore = ["test_task_sets.py", "test_load_environment.py"]
if not find_spec("one_step"):
    collect_ignore.append("test_one_step.py")


@pytest.fixture(autouse=True)
def _operator_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "word-problems, classic-sums, one_step, grail-sat, staros-stardata, mixed-tasks, rambling-sums"
    monkeypatch.setenv(PACKAGES_VARIABLE, names)
