"""A sandbox that holds: untrusted Python judged in confined processes at the speed of a function call.

`shared_pool()` gives the process's pool; `Job` says what runs and which tests judge it; `Ruling` is the verdict.
"""

from grail_envs.sandbox.jobs import Job, Limits, Ruling
from grail_envs.sandbox.pool import JudgePool, SandboxUnavailableError, shared_pool

__all__ = ["Job", "JudgePool", "Limits", "Ruling", "SandboxUnavailableError", "shared_pool"]
