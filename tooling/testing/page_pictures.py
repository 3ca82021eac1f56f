"""Pictures of a page that `grail-validator serve` shows, as docs/validator.md has them: wide and narrow, light and dark.

    grail-validator serve --port 9464 &
    python -m tooling.testing.page_pictures http://127.0.0.1:9464 docs/pictures

What is shown is chosen by the page itself: the first failure that the scoreboard names, its window, its miner. PNG files are
written in 256 colours where Pillow is, so that they stay small.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import click

from tooling.testing.chromium import browser

WIDE, NARROW = (1180, 860), (390, 844)


@dataclass(frozen=True)
class Picture:
    """`path` is a page's, or what it is reached by from the scoreboard: "failure", "window" and "miner" of the first one."""

    name: str
    path: str
    scheme: Literal["light", "dark"] = "light"
    size: tuple[int, int] = WIDE
    whole: bool = False  # as long as it is


PICTURES: Final = (
    Picture("page-scoreboard", "/", whole=True),
    Picture("page-scoreboard-dark", "/", "dark"),
    Picture("page-scoreboard-narrow", "/", size=NARROW),
    Picture("page-window", "window", whole=True),
    Picture("page-window-dark", "window", "dark"),
    Picture("page-explain", "failure"),
    Picture("page-explain-dark", "failure", "dark"),
    Picture("page-explain-narrow", "failure", "dark", NARROW),
    Picture("page-miner", "miner", whole=True),
    Picture("page-miner-dark", "miner", "dark"),
    Picture("page-checkpoints", "/checkpoints", whole=True),
    Picture("page-checkpoints-dark", "/checkpoints", "dark"),
    Picture("page-proof", "/proof", whole=True),
)


@click.command()
@click.argument("url")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", default="", help="Names that begin so.")
def main(url: str, folder: Path, only: str) -> None:
    """Write a picture of each kind of page at URL into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        for picture in PICTURES:
            if not picture.name.startswith(only):
                continue
            width, height = picture.size
            context = opened.new_context(viewport={"width": width, "height": height}, color_scheme=picture.scheme)
            page = context.new_page()
            page.goto(url.rstrip("/") + "/")
            failure = page.locator("td.long a[href^='/windows/']").first.get_attribute("href") or ""
            places = {
                "failure": failure,
                "window": failure.rpartition("/")[0],
                "miner": f"/miners/{failure.rpartition('/')[2]}",
            }
            page.goto(url.rstrip("/") + places.get(picture.path, picture.path))
            data = _small(page.screenshot(full_page=picture.whole))
            (folder / f"{picture.name}.png").write_bytes(data)
            click.echo(f"{picture.name}.png  {len(data) // 1024} KiB")
            context.close()


def _small(data: bytes) -> bytes:
    try:
        from PIL import Image
    except ImportError:
        return data
    with Image.open(io.BytesIO(data)) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        out = io.BytesIO()
        few.save(out, "PNG", optimize=True)
    return min(data, out.getvalue(), key=len)


if __name__ == "__main__":
    main()
