"""The page in a real headless Chromium: it is read, tabbed through and printed narrow, in light and dark, without a script.

What a machine can say of it is asked here: titles, landmarks, one heading, contrast of every text against what lies behind it,
a focus that is seen on everything that can be reached, no sideways scrolling on a telephone, and a silent console.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grail_core.keys import ss58
from grail_core.protocol.types import Window
from grail_core.storage.layout import verdict_key
from tooling.testing.chromium import browser, chromium
from tooling.testing.published_verdicts import PlayedNetwork, publish, put
from tooling.testing.served_page import folder_source, listening, page_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is on the PATH, and GRAIL_TEST_CHROMIUM names none"),
]

CAUGHT, WINDOW = 3, 240
PLAYED = PlayedNetwork(miners=70, fails={WINDOW: [CAUGHT, 7]})
LIAR = ss58(PLAYED.hotkey(CAUGHT))
PATHS = {
    "scoreboard": "/",
    "second page": "/?page=1&sort=uid",
    "nothing found": "/?q=nobody",
    "windows": "/windows",
    "window": f"/windows/{WINDOW}",
    "damaged": "/windows/30",
    "explain": f"/windows/{WINDOW}/{LIAR}",
    "miner": f"/miners/{LIAR}",
    "honest": f"/miners/{ss58(PLAYED.hotkey(1))}",
    "proof": "/proof",
    "checkpoints": "/checkpoints",
}

CONTRAST = """
() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
      if (colour.length === 4 && colour[3] > 0) throw new Error("a ground that shines through");
    }
    throw new Error("no ground");
  };
  const faults = [];
  let texts = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = rgb(element.closest("svg") ? style.fill : style.color), ground = behind(element);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    texts += 1;
    if (ratio < 4.5) faults.push(`${ratio.toFixed(2)}: ${walk.currentNode.data.trim().slice(0, 40)}`);
  }
  return {faults, texts};
}
"""
STRUCTURE = """
() => ({
  lang: document.documentElement.lang,
  headings: document.querySelectorAll("h1").length,
  mains: document.querySelectorAll("main").length,
  navs: [...document.querySelectorAll("nav")].map(one => one.getAttribute("aria-label")),
  tables: [...document.querySelectorAll("table")].map(one => one.caption ? one.caption.textContent : ""),
  heads: [...document.querySelectorAll("th")].filter(one => one.scope !== "col").length,
  scripts: document.querySelectorAll("script, [onclick], [style]").length,
  fields: [...document.querySelectorAll("input:not([type=hidden])")].filter(one => !one.labels.length).length,
  drawings: [...document.querySelectorAll("svg")].filter(one => !one.getAttribute("aria-label")).length,
  order: [...document.querySelectorAll("h1,h2,h3")].map(one => Number(one.tagName[1])),
})
"""
FOCUSED = """
() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {tag: one.tagName, href: one.getAttribute("href") || one.name || one.tagName,
          seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
          shown: box.width > 0 && box.right > 0 && box.bottom > 0};
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("verdicts")
    for verdict in PLAYED.play(12):
        publish(folder, verdict)
    put(folder, verdict_key(Window(30)), b"<damaged>")
    with listening(page_of(folder_source(folder))) as url:
        yield url


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as one:
        yield one


class Seen:
    """One page, and all that its console and its network said."""

    def __init__(self, opened: Browser, **options: Any) -> None:
        self.context = opened.new_context(**options)
        self.context.set_default_timeout(240_000)  # milliseconds: a busy machine is no fault of the page
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("requestfailed", lambda request: self.said.append(f"failed: {request.url}"))
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))


@pytest.fixture
def seen(opened: Browser, request: pytest.FixtureRequest) -> Iterator[Seen]:
    one = Seen(opened, **getattr(request, "param", {"java_script_enabled": True}))
    yield one
    one.context.close()


@pytest.mark.parametrize("name", PATHS)
def test_a_page_has_its_title_landmarks_one_heading_and_named_tables_and_says_nothing_to_the_console(
    seen: Seen, address: str, name: str
) -> None:
    seen.page.goto(address + PATHS[name])
    found = seen.page.evaluate(STRUCTURE)
    assert seen.page.title().endswith(" · GRAIL")
    assert (found["lang"], found["headings"], found["mains"]) == ("en", 1, 1)
    assert found["navs"][0] == "sections"
    assert all(found["navs"])
    assert all(found["tables"])
    assert [found[one] for one in ("heads", "scripts", "fields", "drawings")] == [0, 0, 0, 0]
    assert all(b - a <= 1 or a == 1 for a, b in zip(found["order"], found["order"][1:], strict=False))
    assert {url for url in seen.asked if not url.startswith((address, "data:"))} == set()
    assert seen.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 360])
def test_every_text_stands_out_from_its_ground_in_light_and_dark(
    opened: Browser, address: str, scheme: str, width: int
) -> None:
    seen = Seen(opened, color_scheme=scheme, viewport={"width": width, "height": 800})
    for name, path in PATHS.items():
        seen.page.goto(address + path)
        seen.page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
        found = seen.page.evaluate(CONTRAST)
        assert found["faults"] == [], name
        assert found["texts"] > 20, name
    seen.context.close()


@pytest.mark.parametrize("width", [360, 768, 1180])
def test_nothing_has_to_be_scrolled_sideways(opened: Browser, address: str, width: int) -> None:
    seen = Seen(opened, viewport={"width": width, "height": 800})
    for name, path in PATHS.items():
        seen.page.goto(address + path)
        wide = seen.page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], (name, wide)
        cut = seen.page.evaluate(
            "() => [...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
        )
        assert cut == 0 or width > 1000, name
    seen.context.close()


@pytest.mark.parametrize("name", ["scoreboard", "explain", "miner"])
def test_the_keyboard_reaches_everything_in_order_with_a_focus_that_is_seen(seen: Seen, address: str, name: str) -> None:
    seen.page.goto(address + PATHS[name])
    reachable = seen.page.evaluate(
        "() => [...document.querySelectorAll('a[href],button,input:not([type=hidden]),summary')]"
        ".map(one => one.getAttribute('href') || one.name || one.tagName)"
    )
    reached = []
    for _ in reachable:
        seen.page.keyboard.press("Tab")
        found = seen.page.evaluate(FOCUSED)
        assert found["seen"], found
        assert found["shown"], found
        reached.append(found["href"])
    assert reached == reachable
    assert reached[0] == "#main"


def test_the_skip_link_leads_past_the_navigation(seen: Seen, address: str) -> None:
    seen.page.goto(address)
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    seen.page.keyboard.press("Tab")
    inside = seen.page.evaluate("() => document.querySelector('main').contains(document.activeElement)")
    assert inside


@pytest.mark.parametrize("seen", [{"java_script_enabled": False}], indirect=True)
def test_without_javascript_a_rejected_miner_finds_its_reason_in_three_clicks(seen: Seen, address: str) -> None:
    page = seen.page
    page.goto(address)
    page.get_by_label("Find a hotkey").fill(LIAR[:8])
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name=f"miner {LIAR}").click()
    page.get_by_role("link", name=f"explain: why, in window {WINDOW}").click()
    assert page.get_by_role("heading", level=1).inner_text() == f"UID {CAUGHT} in window {WINDOW} failed"
    assert "sketches have nothing in common with the window's checkpoint" in page.locator("main").inner_text()
    page.get_by_role("link", name="Scoreboard").click()
    page.get_by_role("link", name="sort by UID").click()
    assert page.locator("table td").first.inner_text() == "1"
    assert seen.said == []


def test_a_download_is_saved_under_its_name(seen: Seen, address: str, tmp_path: Path) -> None:
    seen.page.goto(f"{address}/windows/{WINDOW}")
    with seen.page.expect_download() as download:
        seen.page.get_by_role("link", name="evidence.parquet").click()
    assert download.value.suggested_filename == f"evidence-{WINDOW}.parquet"
    download.value.save_as(tmp_path / "evidence")
    assert (tmp_path / "evidence").stat().st_size == 17_000
