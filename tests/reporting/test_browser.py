"""report.html in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.browser import CONTRAST, LOOKS, Shown, launched, needs_chromium, opened

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(params=LOOKS, ids=lambda p: f"{p[0]}-{p[1]}")
def shown(chromium: Browser, page: Path, request: pytest.FixtureRequest) -> Iterator[Shown]:
    """The page at one width and in one theme, with everything it complained about or asked the network for."""
    with opened(chromium, page.as_uri(), own="file:", look=request.param) as found:
        yield found


def test_the_page_is_quiet_fits_and_shows_every_plot(shown: tuple[Page, list[str]]) -> None:
    tab, complaints = shown
    for summary in tab.locator("summary").all():
        summary.click()
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    figures = tab.locator("figure")
    names = {name for role in ("embed", "rerank") for name in (f"plot-{kind}-{role}" for kind in ("scores", "loss", "merge", "methods"))}
    assert {figure.get_attribute("id") for figure in figures.all()} == names | {"plot-cost"}
    for figure in figures.all():
        box = figure.locator("svg").bounding_box()
        assert box is not None and box["width"] > 250 and box["height"] > 100
        assert figure.locator("svg path").count() > 5
    assert len(set(tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))) == tab.locator("[id]").count()


def test_text_can_be_read_in_every_theme(shown: tuple[Page, list[str]]) -> None:
    tab, _ = shown
    selector = "h1, h2, .lead, .badge, td, td small, thead th, figcaption, figure svg text, footer"
    contrasts: list[Any] = tab.locator(selector).filter(visible=True).evaluate_all(CONTRAST)
    assert len(contrasts) > 100 and min(contrasts) >= 4.5


def test_curves_stand_out_from_the_card(shown: tuple[Page, list[str]]) -> None:
    tab, _ = shown
    colors = tab.evaluate("""() => [...document.querySelectorAll('#plot-loss-embed svg path')]
      .map(path => getComputedStyle(path).stroke).filter(stroke => stroke !== 'none')""")
    assert len(set(colors)) >= 6


def test_headings_are_in_order_and_plots_have_names(shown: tuple[Page, list[str]]) -> None:
    tab, _ = shown
    levels = [int(tag[1]) for tag in tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => e.tagName)")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert tab.locator("svg[role=img][aria-labelledby]").count() == tab.locator("figure").count()
