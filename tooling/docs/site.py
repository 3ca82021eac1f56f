"""MkDocs' hook: the pages as they lie in the repository become a site, without a second copy of any.

README, CONTRIBUTING, SECURITY and the changelogs are pages of the site too. Links that leave the pages lead into the repository
where its address is known (`GRAIL_DOCS_REPOSITORY`, such as `https://HOST/OWNER/grail/blob/main`) and are plain text
elsewhere: no host is invented. Nothing is fetched while the site is built.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import TYPE_CHECKING, Final

from tooling import REPOSITORY
from tooling.docs.dialect import python_markdown

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

WHEELS: Final = ("grail-core", "grail-envs", "grail-miner", "grail-validator", "grail-trainer")
OUTSIDE: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    **{f"packages/{wheel}/CHANGELOG.md": f"changes/{wheel}.md" for wheel in WHEELS},
}
"""File of the repository → page of the site, for what does not lie in docs/."""

_LINK: Final = re.compile(
    r"(?P<code>`+)[^`]+(?P=code)|(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^\s()]+)\)"
)
_SCHEME: Final = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:|#)")
_RESOURCE: Final = re.compile(
    r"""(?:<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=|<link\b(?![^>]*\brel=["']?canonical)[^>]*?\bhref="""
    r"""|@import |\burl\()\s*["']?(?P<address>(?:https?:)?//[^"'\s>)]+)""",
    re.IGNORECASE,
)
_BLOCKS: Final = re.compile(r"^( *```.*?^ *```)$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere in the repository."""
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    repository = os.environ.get("GRAIL_DOCS_REPOSITORY", "").rstrip("/")
    return python_markdown(linked(markdown, page.file.src_uri, repository))


def on_post_build(*, config: MkDocsConfig) -> None:
    """Ends the build where a page that was written would ask anybody else's server for a part of itself."""
    from mkdocs.exceptions import PluginError

    for page in sorted(Path(config.site_dir).rglob("*.html")):
        asked = resources_from_elsewhere(page.read_text(encoding="utf-8"))
        if asked:
            raise PluginError(f"{page.relative_to(config.site_dir)} would fetch {', '.join(asked)}: bundle it, or leave it out")


def resources_from_elsewhere(html: str) -> list[str]:
    """What a browser fetches of other servers to show a page; links that a reader may follow are none of it."""
    return sorted({found["address"] for found in _RESOURCE.finditer(html)})


def linked(markdown: str, page: str, repository: str) -> str:
    """The page with links that the site has: to its own pages, into the repository, or none.

    Args:
        page: its place in the site, such as `start/miner.md`.
        repository: what a file's path is put behind ("": a link into the repository becomes text).
    """
    source = next((source for source, made in OUTSIDE.items() if made == page), f"docs/{page}")
    parts = _BLOCKS.split(markdown)  # prose, block, prose, …
    parts[::2] = [_LINK.sub(lambda found: _link(found, source, page, repository), prose) for prose in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], source: str, page: str, repository: str) -> str:
    picture, text, target = found["picture"], found["text"], found["target"]
    if found["code"] or _SCHEME.match(target):
        return found[0]
    place, hash_mark, anchor = target.partition("#")
    path = normpath(join(dirname(source), place))
    if path in OUTSIDE:
        made = OUTSIDE[path]
    elif path.startswith("docs/") and (REPOSITORY / path).is_file():
        made = path.removeprefix("docs/")
    elif repository:
        return f"{picture}[{text}]({repository}/{path}{hash_mark}{anchor})"
    else:
        return text if "`" in text or path in text else f"{text} (`{path}`)"
    return f"{picture}[{text}]({relpath(made, dirname(page) or '.')}{hash_mark}{anchor})"
