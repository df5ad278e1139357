"""report.html in a real Chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

# Contrast as WCAG 2 defines it, between the text of an element and the nearest background behind it.
CONTRAST = """elements => elements.map(element => {
  const light = text => {
    const parts = text.match(/[\\d.]+/g).map(Number).slice(0, 3)
      .map(v => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  let behind = element;
  while (behind.parentElement && /, 0\\)$|transparent/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const style = getComputedStyle(element), ink = element.closest('svg') ? style.fill : style.color;
  const pair = [light(ink), light(getComputedStyle(behind).backgroundColor)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
})"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def shown(chromium: Browser, page: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Page, list[str]]]:
    """The page at one width and in one theme, with everything it complained about or asked the network for."""
    width, theme = request.param
    tab, complaints = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=theme), list[str]()
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    tab.goto(page.as_uri())
    yield tab, complaints
    tab.close()


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
