"""An engine's seccomp profile, and what the sandbox for answers that are code needs beside it.

    python allow_sandbox.py default.json > seccomp.json

`default.json` is the profile that your engine has built in (moby's is `profiles/seccomp/default.json` of its source; Podman's
is /usr/share/containers/seccomp.json). One rule is added: `clone` with any flags, `mount` and `sethostname`, which the kernel
lets a process without capabilities do in a user namespace of its own alone. Nothing is taken away. A profile that allows what
it does not list is refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

NEEDED = ("clone", "mount", "sethostname")
ALLOW = "SCMP_ACT_ALLOW"


def allowing(text: str) -> str:
    """The profile with the rule. Raises ValueError where it is none."""
    profile = json.loads(text)
    rules = profile.get("syscalls") if isinstance(profile, dict) else None
    if not isinstance(rules, list) or profile.get("defaultAction") not in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"):
        raise ValueError("this is no seccomp profile that refuses what it does not list")
    profile["syscalls"] = [*rules, {"names": list(NEEDED), "action": ALLOW, "comment": "the sandbox of answers that are code"}]
    return json.dumps(profile, indent=1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(allowing(Path(sys.argv[1]).read_text("utf-8")))
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
