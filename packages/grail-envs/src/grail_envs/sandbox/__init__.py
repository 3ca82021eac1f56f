"""A sandbox that holds: untrusted Python graded in confined processes at the speed of a function call.

`shared_pool()` gives the process's pool; `Job` says what runs and which tests grade it; `Ruling` is the verdict.
"""

from grail_envs.sandbox.jobs import Job, Limits, Ruling
from grail_envs.sandbox.pool import GraderPool, SandboxUnavailableError, shared_pool

__all__ = ["GraderPool", "Job", "Limits", "Ruling", "SandboxUnavailableError", "shared_pool"]
