"""A real Chromium, the page under test in it, and how well its text stands out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_chromium = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
Shown = tuple[Page, list[str]]
LOOKS = [(1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")]
"""Width in pixels and theme."""

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


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, own: str, look: tuple[int, str]) -> Iterator[Shown]:
    """A page at one width and in one theme, with everything it complained about or asked of what does not start with `own`."""
    width, theme = look
    tab, complaints = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme), list[str]()
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith((own, "data:")) else None)
    tab.goto(url)
    yield tab, complaints
    tab.close()
