"""URLs as they may be shown: in errors, logs, tables and JSON, which are sent to others.

A URL that an operator sets may hold a user, a password or a provider's key, and the key may stand in the query, in the path or
behind `#`. So scheme, host and port are shown, and `***` says where there was more; a path is shown only where the caller
knows that it is public (a drand chain's hash).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

HIDDEN = "***"
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)


def without_access(url: str, public: Collection[str] = ()) -> str:
    """A URL without what may give access. What is no URL passes as it is, but for what stands before an `@`.

    Args:
        public: paths that hold no secret, without a slash at their end.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return f"{HIDDEN}@{url.rpartition('@')[2]}" if "@" in url else url
    if not scheme.replace("+", "").isalnum():
        return HIDDEN
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    _, at, host = parts.netloc.rpartition("@")
    rest = url[len(scheme) + len(separator) + len(parts.netloc) :]
    if "@" in rest or not _HOST.fullmatch(host):  # a password with `/`, `?` or `#` in it ends the host too early
        return f"{scheme}://{HIDDEN}"
    path = rest.rstrip("/")
    hidden = f"/{HIDDEN}" if path and path not in public else path
    return f"{scheme}://{HIDDEN + at if at else ''}{host}{hidden}"


def all_without_access(urls: str, public: Collection[str] = ()) -> str:
    """The same for URLs separated by commas. A text without any passes as it is."""
    return ",".join(without_access(url.strip(), public) for url in urls.split(",")) if "://" in urls else urls
