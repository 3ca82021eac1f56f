"""Every setting that somebody gave, with where it stands, and what is odd about it. Nothing is opened for this.

A value that no setting can have is told here too, instead of ending the examination: the others are then what they would be
without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from grail_core.checkpoints.pinned_table import read_own_copy
from grail_core.errors import ConfigurationError, GrailError
from grail_core.examination.findings import SETTINGS, Finding, broken, ok, warning
from grail_core.participant.settings import Resolution, Settings
from grail_core.participant.settings_sources import OTHER_TOOLS
from grail_core.telemetry.logs import no_log_file

_SCHEMES: Final = {"bt_chain_endpoint": ("wss://", "ws://"), "beacon_urls": ("https://", "http://")}
_SCHEMES_OF_SERVERS: Final = {
    "sglang_url": ("http://", "https://"),
    "vllm_url": ("http://", "https://"),
    "r2_endpoint_url": ("https://", "http://"),
}
_PLACEHOLDERS: Final = ("…", "...")
_R2: Final = ("r2_bucket_id", "r2_account_id", "r2_read_access_key_id")


def as_given(found: Resolution, faults: tuple[ConfigurationError, ...]) -> Iterator[Finding]:
    """What is set, from where, what cannot be read, and names that no setting has."""
    for error in faults:
        yield broken(SETTINGS, error.what.partition(":")[0][:60], error)
    for name, value, origin in found.rows():
        if origin != "default":
            yield ok(SETTINGS, name, value or "-", origin=origin)
    for one in found.unknown:
        hint = f"set {one.nearest} in its place" if one.nearest else "take it out, if it was meant for this program"
        yield warning(SETTINGS, one.name, str(one), hint, origin=one.origin)


def odd(settings: Settings, origins: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Values that a setting can have, and that cannot work or are not meant so."""
    told = origins or {}
    yield from _placeholders(settings, told)
    yield from _without_scheme(settings, told)
    yield from _store(settings)
    if settings.calibration is not None:
        try:
            read_own_copy(settings.calibration)
        except GrailError as error:
            yield broken(SETTINGS, "GRAIL_CALIBRATION", error, origin=told.get("GRAIL_CALIBRATION", ""))
    if settings.data_dir is not None and not settings.data_dir.is_dir():
        hint = "name the folder that holds the data sets' folders, or leave it unset"
        yield warning(SETTINGS, "GRAIL_DATA_DIR", f"there is no such folder: {settings.data_dir}", hint)


def other_tools(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Variables of other tools that are set where ours is not: they are not read here."""
    there = os.environ if environ is None else environ
    for name, ours in OTHER_TOOLS.items():
        if there.get(name) and not there.get(ours):
            yield warning(SETTINGS, name, f"{name} is another tool's name, and not read here", f"set {ours}")


def log_file(settings: Settings) -> Iterator[Finding]:
    """Whether the log can be written. Its folder is made at a start; where it is not there now, it may be misspelt."""
    path = settings.log_file
    if path is None:
        return
    odd = no_log_file(path)
    if odd:
        yield _broken("log_file", odd, str(path), "name a file", {})
        return
    place = next((one for one in path.parents if one.exists()), path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield _broken("log_file", "the log's folder cannot be made or written", str(place), "name another folder", {})
    elif place != path.parent:
        yield warning(SETTINGS, "GRAIL_LOG_FILE", f"its folder {path.parent} is not there: a start makes it", "check the path")


def _placeholders(settings: Settings, origins: Mapping[str, str]) -> Iterator[Finding]:
    """What the pages leave out for somebody to fill in."""
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value.name if isinstance(value, Path) else value
        if text in _PLACEHOLDERS:
            what = f"the value is {text}, which stands for what is to be filled in"
            yield _broken(name, what, "", "write the value in its place, or take the line out", origins)


def _without_scheme(settings: Settings, origins: Mapping[str, str]) -> Iterator[Finding]:
    for name, schemes in {**_SCHEMES, **_SCHEMES_OF_SERVERS}.items():
        if name == "bt_chain_endpoint" and settings.bt_network == "local":
            continue
        value = getattr(settings, name) or ""
        urls = [url.strip() for url in str(value).split(",") if url.strip()]
        wrong = [place for place, url in enumerate(urls, start=1) if not url.startswith(schemes)]
        if wrong:
            which = "the address" if len(urls) == 1 else f"address {', '.join(map(str, wrong))} of {len(urls)}"
            yield _broken(name, f"{which} does not begin with {' or '.join(schemes)}", "", f"write {schemes[0]}HOST…", origins)


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.storage_root is not None and any(getattr(settings, name) for name in _R2):
        told = "GRAIL_STORAGE_ROOT is set, so R2_* are not used"
        yield warning(SETTINGS, "GRAIL_STORAGE_ROOT", told, "unset the one that is not meant")


def _broken(name: str, what: str, value: str, hint: str, origins: Mapping[str, str]) -> Finding:
    alias = str(Settings.model_fields[name].alias)
    where = f"{alias}={value}" if value else alias
    return broken(SETTINGS, alias, ConfigurationError(what, where=where, hint=hint), origin=origins.get(alias, ""))
