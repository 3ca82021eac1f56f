"""What a doctor asks of environments: the sandbox's layers, and whether what the checkpoint names is here with its data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from grail_core.errors import CheckpointError, ConfigurationError, GrailError
from grail_core.examination import deployment, device, folders, report
from grail_core.examination.checkpoint import of_rounds
from grail_core.examination.findings import DATA, SANDBOX, Finding, broken, not_asked, ok, warning
from grail_core.examination.known import Known, Role
from grail_core.participant.settings import Resolution, Settings
from grail_core.protocol.manifest import CheckpointManifest

RUNS_CODE: Final = frozenset(
    {"humaneval", "mbpp", "math", "affine_trace", "triton_kernel", "verifiers", "gymnasium", "openenv"}
)
"""Environments whose answers or problems are run, or reduced by a library, in the sandbox; the last three are of others."""


def sandbox(known: Known) -> Iterator[Finding]:
    """Which layers there are. That one is missing is a fault where the checkpoint's environment runs answers, and is strict."""
    from grail_envs.sandbox import GraderPool
    from grail_envs.sandbox.pool import LAYERS, SANDBOX_VARIABLE, SandboxUnavailableError

    needed = known.manifest is not None and known.manifest.environment.env_id in RUNS_CODE
    strict = not os.environ.get(SANDBOX_VARIABLE, "strict").startswith("auto")
    try:
        pool = GraderPool("auto", lanes=1)
    except GrailError as error:
        yield broken(SANDBOX, "sandbox", error) if needed else warning(SANDBOX, "sandbox", error.what, error.hint)
        return
    layers, problems = dict(pool.layers), dict(pool.problems)
    pool.close()
    missing = [layer for layer in LAYERS if not layers.get(layer)]
    if not missing:
        yield ok(SANDBOX, "sandbox", f"{', '.join(LAYERS)}: all hold")
        return
    told = "; ".join(f"{layer}: {problems.get(layer, 'not there')}" for layer in missing)
    if needed and strict:
        hint = "`grail-envs doctor` shows the layers; docs/environments.md says what each wants"
        yield broken(SANDBOX, "sandbox", SandboxUnavailableError(told, where="this machine", hint=hint))
    else:
        yield warning(SANDBOX, "sandbox", told, "environments that run answers need every layer (`grail-envs doctor`)")


def work(settings: Settings, known: Known) -> Iterator[Finding]:
    """The environment of the checkpoint in force, or the corpus of gradient work. Nothing is fetched for this question."""
    if known.manifest is None:
        yield not_asked(DATA, "environment", "the checkpoint names it")
    else:
        yield _corpus(settings, known.manifest) if of_rounds(known.manifest) else _environment(settings, known.manifest)


def require_work(settings: Settings, manifest: CheckpointManifest) -> None:
    """At a role's start: what the checkpoint in force names can be worked on here.

    Raises:
        EnvironmentUnavailableError: its environment is not installed, is another version, or has no data here.
        CheckpointError: gradient work that cannot be read.
    """
    report.refuse(work(settings, Known(manifest=manifest)))


def _corpus(settings: Settings, manifest: CheckpointManifest) -> Finding:
    from grail_envs.corpus.opening import corpus_of

    try:
        spec = corpus_of(manifest.environment, data_dir=settings.data_dir).spec
    except ValueError as error:
        return broken(DATA, "corpus", CheckpointError(f"the checkpoint's gradient work cannot be read here: {error}"))
    except GrailError as error:
        told = f"{error.what}; a role asks the trainer's bucket for it with the first round"
        return warning(DATA, "corpus", told, hint=error.hint)
    return ok(DATA, "corpus", f"{spec.name}, {spec.sequences} sequences of {spec.sequence_length} tokens")


def _environment(settings: Settings, manifest: CheckpointManifest) -> Finding:
    from grail_envs.bound import load_bound

    spec = manifest.environment
    try:
        load_bound(spec, manifest.env_digest, settings.data_dir)
    except GrailError as error:
        return broken(DATA, "environment", error)
    return ok(DATA, "environment", f"{spec.env_id} version {spec.version}: the same as the checkpoint's")


def examine_role(
    found: Resolution, faults: tuple[ConfigurationError, ...], role: Role, known: Known, *, offline: bool = False
) -> Iterator[Finding]:
    """Everything that a validator's and a trainer's doctor ask alike, from settings to data sets."""
    settings = found.settings
    yield from deployment.examine(found, faults, role, known, offline=offline)
    yield from device.device(settings)
    yield from sandbox(known)
    yield from folders.folders(folders.of_role(settings))
    yield from folders.budget(settings)
    if offline:
        yield not_asked(DATA, "environment", "--offline")
    elif known.manifest is not None or not role.trainer:
        yield from work(settings, known)
