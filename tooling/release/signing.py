"""The operator's detached signature of `SHA256SUMS`, in OpenSSH's format (SSHSIG), made and verified by `ssh-keygen`.

Everybody who has OpenSSH 8.2 or later verifies it without us. Verifiers have a file of allowed signers, a line each:
`release@example.org namespaces="grail-release" ssh-ed25519 AAAA…`. A key with a passphrase is asked for by ssh-keygen itself,
or lies in an agent; we never see it. A signature for another purpose (another namespace) is none.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tooling.release.faults import NotTheReleaseError, ReleaseRefusedError

NAMESPACE = "grail-release"
MAX_SIGNATURE_BYTES = 16 * 2**10
MAX_SIGNERS_BYTES = 256 * 2**10
_TIMEOUT_S = 60


def sign(data: bytes, key: Path) -> bytes:
    """The armoured signature of `data`. `key`: a private key's file, or a public one's whose key is in the agent.

    Raises:
        ReleaseRefusedError: ssh-keygen is not there or refuses the key.
    """
    if not key.is_file():
        raise ReleaseRefusedError("there is no such key", where=str(key), hint=f"ssh-keygen -t ed25519 -f {key}")
    with tempfile.TemporaryDirectory() as scratch:
        message = Path(scratch) / "message"
        message.write_bytes(data)
        done = _keygen("sign", "-n", NAMESPACE, "-f", str(key.absolute()), str(message), asks=True)
        if done.returncode != 0:
            raise ReleaseRefusedError(f"ssh-keygen did not sign: {_said(done)}", where=str(key))
        return (Path(scratch) / "message.sig").read_bytes()


def verify(data: bytes, signature: bytes, signers: Path) -> str:
    """Who of `signers` signed `data`.

    Raises:
        NotTheReleaseError: nobody of them did, or it is no signature.
        ReleaseRefusedError: the signers' file cannot be read, or there is no ssh-keygen.
    """
    if not signers.is_file() or signers.stat().st_size > MAX_SIGNERS_BYTES:
        hint = f'a line each: NAME namespaces="{NAMESPACE}" ssh-ed25519 AAAA…'
        raise ReleaseRefusedError("there is no file of allowed signers", where=str(signers), hint=hint)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "signature"
        place.write_bytes(signature)
        allowed = str(signers.absolute())
        found = _keygen("find-principals", "-s", str(place), "-f", allowed)
        names = found.stdout.decode(errors="replace").splitlines() if found.returncode == 0 else []
        for name in names:
            done = _keygen("verify", "-f", allowed, "-I", name, "-n", NAMESPACE, "-s", str(place), data=data)
            if done.returncode == 0:
                return name
            found = done
    raise NotTheReleaseError(
        f"no allowed signer signed it: {_said(found)}",
        where="SHA256SUMS.sig",
        hint="do not install it; ask its operator for the key",
    )


def _keygen(action: str, *arguments: str, data: bytes | None = None, asks: bool = False) -> subprocess.CompletedProcess[bytes]:
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY") if name in os.environ
    }
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", action, *arguments],
            input=data,
            capture_output=True,
            stdin=None if asks or data is not None else subprocess.DEVNULL,
            check=False,
            timeout=None if asks else _TIMEOUT_S,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseRefusedError(f"ssh-keygen cannot be run: {error}", hint="install OpenSSH 8.2 or later") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[:500]
