"""`grail-envs export`: an environment of ours as a package of `verifiers`, in both of its forms.

The folder holds a name, a digest and a pinned `grail-envs`; problems and rewards come from that wheel, by the same code as in
the network. It holds no data: an environment that reads a set finds it as ever, and refuses other rows than were exported.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Final

from grail_core.environment import Environment
from grail_core.errors import ConfigurationError

MAX_PROBLEMS: Final = 100_000
_ID: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", re.ASCII)
"""What stands in the texts below without being escaped."""

_OUR_WHEELS: Final = frozenset({"core", "envs", "miner", "trainer", "validator"})


def export(environment: Environment, folder: Path, problems: int) -> list[Path]:
    """Write the package of an environment into a new folder, and name its files.

    Raises:
        ConfigurationError: the folder has something in it, the environment is itself adapted from another package or has an id
            that is no name for a package, or the number of problems is none.
    """
    from grail_envs.registry import ADAPTERS

    spec = environment.spec
    if spec.env_id in ADAPTERS:
        raise ConfigurationError(
            f"{spec.env_id} is adapted from another package",
            where=spec.env_id,
            hint="hand on that package itself: nothing of ours is in it",
        )
    if type(problems) is not int or not 1 <= problems <= MAX_PROBLEMS:
        raise ConfigurationError(f"{problems!r} problems", where="problems", hint=f"1 to {MAX_PROBLEMS}, of seeds 0, 1, …")
    if not _ID.fullmatch(spec.env_id) or spec.env_id in _OUR_WHEELS:
        raise ConfigurationError(
            f"the id {spec.env_id[:100]!r} gives no package a name",
            where="env_id",
            hint="lower-case letters, digits and single - or _, and none of our own wheels' names: "
            + ", ".join(sorted(_OUR_WHEELS)),
        )
    try:
        if folder.is_symlink() and not folder.exists():
            raise ConfigurationError("the folder is a link to nothing", where=str(folder), hint="name a new one")
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError("the folder is not empty", where=str(folder), hint="name a new one")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the folder cannot be made: {error.strerror or error}", where=str(folder), hint="name a new one"
        ) from error
    name = "grail-" + spec.env_id.replace("_", "-")
    module = name.replace("-", "_")
    class_name = "".join(part.capitalize() for part in name.split("-")) + "Taskset"
    parameters = json.dumps(dict(spec.parameters), sort_keys=True)
    texts = {
        "pyproject.toml": _PYPROJECT.format(name=name, module=module, env_id=spec.env_id, version=version("grail-envs")),
        "README.md": _README.format(name=name, env_id=spec.env_id, digest=spec.digest.hex()),
        f"{module}/__init__.py": _INIT.format(env_id=spec.env_id, module=module, class_name=class_name),
        f"{module}/exported.py": _EXPORTED.format(
            env_id=spec.env_id, parameters=parameters, digest=spec.digest.hex(), problems=problems
        ),
        f"{module}/taskset.py": _TASKSET.format(env_id=spec.env_id, module=module, class_name=class_name),
    }
    for relative, text in texts.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [folder / relative for relative in texts]


_PYPROJECT: Final = """\
[project]
name = "{name}"
version = "{version}"
description = "GRAIL's environment {env_id} as a verifiers package."
requires-python = ">=3.11"
dependencies = ["grail-envs=={version}", "verifiers>=0.1.9"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""

_README: Final = """\
# {name}

GRAIL's environment `{env_id}` as a package of `verifiers`, written by `grail-envs export`. Problems, prompts and rewards are
those of the network, by the same code: the spec's digest is `{digest}`, and another one is refused.

    pip install .
    vf-eval {name} -n 3 -m MODEL -b https://HOST/v1 -k KEY      # verifiers before 0.4; KEY names a variable of the environment
    vf-eval {name} -n 3 -m MODEL --client.base-url https://HOST/v1 --client.api-key-var KEY --no-push      # from 0.4

`num_tasks` (`num_examples` before verifiers 0.4) is how many problems, of seeds 0, 1, …; `data_dir` where the data sets lie, if
the environment reads one. Code is run in GRAIL's sandbox, which `grail-envs doctor` examines.
"""

_INIT: Final = '''\
"""GRAIL's environment {env_id} as a verifiers package. Written by `grail-envs export`; nothing here is to be edited."""

from grail_envs.adapters.exported import has_task_sets
from {module}.exported import EXPORTED


def load_environment(num_examples: int = 0, data_dir: str = ""):
    """The form of verifiers before 0.4."""
    from grail_envs.adapters.exported_environment import environment_of

    return environment_of(EXPORTED, num_examples, data_dir)


__all__ = ["load_environment"]
if has_task_sets():
    from {module}.taskset import {class_name}

    __all__ += ["{class_name}"]
'''

_EXPORTED: Final = '''\
"""Which environment, with which parameters, and the digest that it has."""

from grail_envs.adapters.exported import Exported

EXPORTED = Exported(
    env_id={env_id!r},
    parameters={parameters!r},
    digest={digest!r},
    problems={problems},
)
'''

_TASKSET: Final = '''\
"""The form of verifiers from 0.4: a task set."""

from grail_envs.adapters.exported_tasks import GrailTaskset
from {module}.exported import EXPORTED


class {class_name}(GrailTaskset):
    """GRAIL's environment {env_id}."""

    exported = EXPORTED
'''
