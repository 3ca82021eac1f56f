"""`hatch run release`: plan, bump, build, sign and verify a release of the five wheels, or try all of it for nothing.

Nothing is uploaded, tagged or committed by any of these; each says what its user does next.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import click

from grail_core.errors import GrailError
from grail_core.telemetry.json_output import json_option, print_error, print_wrong_usage, say
from tooling import REPOSITORY
from tooling.release.packages import PARTS
from tooling.testing.wheels import PACKAGES

EPILOG = """\b
Exit codes: 0 done · 2 wrong usage · 3 the tree, a changelog, a version or a key is not fit for it · 11 a folder is not
            the release that it says it is
"""
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
source_option = click.option(
    "--source", type=click.Path(file_okay=False, path_type=Path), default=REPOSITORY, hidden=True, help="The source tree."
)
dirty_option = click.option("--allow-dirty", is_flag=True, help="Although something is not committed.")


@click.group(context_settings=SETTINGS, epilog=EPILOG)
def cli() -> None:
    """Release the five wheels: `plan`, `bump` each, commit and tag, `build`, `sign`, `verify`. See docs/releases.md."""


@cli.command("plan")
@source_option
@json_option
def plan_command(source: Path, as_json: bool) -> None:
    """Say of each package what changed since its last tag, which version that makes, and who must follow."""
    from tooling.release.plan import plan, told

    proposals = plan(source)
    say(told(proposals), {"packages": [one.to_json() for one in proposals]}, as_json=as_json)


@cli.command("bump")
@click.argument("package", type=click.Choice(PACKAGES))
@click.argument("part", type=click.Choice(PARTS))
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="The date of the release (default: today in UTC).")
@click.option("--floor", is_flag=True, help="Dependents ask for the new version at least, although theirs admits it.")
@dirty_option
@source_option
@json_option
def bump_command(
    package: str, part: str, date: datetime.datetime | None, floor: bool, allow_dirty: bool, source: Path, as_json: bool
) -> None:
    """Write PACKAGE's next version wherever it stands, date its changelog, and have its dependents follow.

    `release` is for the version that stands there and was never released; `patch`, `minor` and `major` for the one after.
    Dependents whose requirement does not admit the new version get the new requirement and a changelog line: release them too.
    """
    from tooling.release.bump import bump

    day = (date or datetime.datetime.now(datetime.UTC)).date()
    done = bump(source, package, part, day, allow_dirty=allow_dirty, floor=floor)
    files = [str(path.relative_to(source)) for path in done.files]
    lines = [f"{package} {done.before} → {done.version}", *(f"  {file}" for file in files)]
    lines += [f"release {follower} too: its requirement changed" for follower in done.followers]
    lines.append(f"then: commit (before the next package is bumped), and after the release: git tag {package}-v{done.version}")
    value = {"package": package, "before": done.before, "version": done.version, "files": files, "followers": done.followers}
    say("\n".join(lines), value, as_json=as_json)


@cli.command("build")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder that is not there yet.")
@dirty_option
@click.option("--allow-unreleased", is_flag=True, help="Although a changelog has no date for its version.")
@source_option
@json_option
def build_command(out: Path, allow_dirty: bool, allow_unreleased: bool, source: Path, as_json: bool) -> None:
    """Build wheels, bills of materials, changelogs, release.json and SHA256SUMS of the checked-out commit."""
    from tooling.release.build import build_release

    release = build_release(source, out, allow_dirty=allow_dirty, allow_unreleased=allow_unreleased)
    say(
        f"{_listing(out)}\nnext: hatch run release sign {out} --key FILE",
        {"out": str(out), "release": release.model_dump()},
        as_json=as_json,
    )


@cli.command("sign")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="OpenSSH key: private, or public with an agent.")
@json_option
def sign_command(folder: Path, key: Path, as_json: bool) -> None:
    """Sign FOLDER's SHA256SUMS with the operator's key, by `ssh-keygen -Y sign`."""
    from tooling.release.build import sign_folder

    place = sign_folder(folder, key)
    say(f"{place}\nnext: hatch run release verify {folder} --signers FILE", {"signature": str(place)}, as_json=as_json)


@cli.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--signers", type=click.Path(path_type=Path), help="Allowed signers, as `ssh-keygen` reads them.")
@click.option("--unsigned", is_flag=True, help="Do not ask for a signature: what is verified then is only that it is whole.")
@click.option("--unreleased", is_flag=True, help="Take versions without a date and changes that no commit has.")
@json_option
def verify_command(folder: Path, signers: Path | None, unsigned: bool, unreleased: bool, as_json: bool) -> None:
    """Hold FOLDER against what it says of itself, from its files alone: signature, digests, wheels, bills, changelogs."""
    from tooling.release.verify import verify_folder

    if (signers is None) != unsigned:
        raise click.UsageError("give --signers FILE, or --unsigned")
    verified = verify_folder(folder, signers, unreleased=unreleased)
    by = f"signed by {verified.signer}" if verified.signer else "NOT SIGNED as far as was asked"
    versions = {name: package.version for name, package in sorted(verified.release.packages.items())}
    lines = [f"{name} {version}" for name, version in versions.items()]
    lines.append(f"{verified.files} files, {by}, of commit {verified.release.commit[:12]}")
    say("\n".join(lines), {"signer": verified.signer, "files": verified.files, "packages": versions}, as_json=as_json)


@cli.command("dry-run")
@dirty_option
@source_option
@json_option
def dry_run_command(allow_dirty: bool, source: Path, as_json: bool) -> None:
    """Do all of it in a temporary folder with a throwaway key, twice, and say what a real release would upload."""
    from tooling.release.dry_run import dry_run, told

    run = dry_run(source, allow_dirty=allow_dirty)
    say(told(run), run.to_json(), as_json=as_json)


@cli.command("neighbours")
@json_option
def neighbours_command(as_json: bool) -> None:
    """Try which neighbouring versions of the wheels install together and read each other's files. A minute or two."""
    from tooling.release.neighbours import told, try_neighbours

    tried = try_neighbours()
    say(told(tried), tried.to_json(), as_json=as_json)


def _listing(out: Path) -> str:
    return "\n".join(f"{path}  {path.stat().st_size:,} bytes" for path in sorted(out.iterdir()))


def main(arguments: list[str] | None = None) -> Any:
    """Parse, carry out, and exit with the error's own code."""
    try:
        return cli.main(args=arguments, prog_name="hatch run release", standalone_mode=False)
    except click.exceptions.Exit as left:
        sys.exit(left.exit_code)
    except click.ClickException as error:
        print_wrong_usage(error)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except GrailError as error:
        print_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
