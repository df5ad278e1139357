"""The search page in a real Chromium, against the real server: by keyboard, at every width, in both themes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect
from tests.browser import CONTRAST, LOOKS, Shown, launched, needs_chromium, opened
from tests.serving import world

pytestmark = needs_chromium
QUERY, OWN = "the gzip of a socket", "Find something about cafés."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(params=LOOKS, ids=lambda p: f"{p[0]}-{p[1]}")
def shown(chromium: Browser, server: world.Served, request: pytest.FixtureRequest) -> Iterator[Shown]:
    """The page at one width and in one theme, with everything it complained about or asked of anybody else."""
    with opened(chromium, server.url, own=server.url, look=request.param) as found:
        yield found


def ask(tab: Page, query: str = QUERY, instruction: str = "") -> None:
    """Search by keyboard alone."""
    tab.keyboard.press("Escape")
    tab.locator("#query").fill(query)
    tab.locator("#instruction").fill(instruction)
    tab.locator("#query").press("Enter")
    expect(tab.locator("#status")).to_contain_text(" ms. Instruction: ")


def test_a_search_shows_both_lists_with_scores_moves_and_sources(shown: Shown, server: world.Served) -> None:
    tab, complaints = shown
    assert tab.evaluate("document.activeElement.id") == "query"
    ask(tab)
    answer = server.post("/v1/search", {"query": QUERY, "include_first_stage": True}).json()
    for name, place in (("final", "results"), ("first", "first_stage")):
        assert tab.locator(f"#{name} .title").all_inner_texts() == [row["title"] for row in answer[place]]
        assert tab.locator(f"#{name} .source").all_inner_texts() == [row["source"] for row in answer[place]]
        assert tab.locator(f"#{name} .score").all_inner_texts() == [f"{row['score']:.3f}" for row in answer[place]]
    moves = [f"▲ up {m}" if m > 0 else f"▼ down {-m}" if m < 0 else "same place" for m in (row["move"] for row in answer["results"])]
    assert tab.locator("#final .move").all_inner_texts() == moves and any("▲" in move for move in moves)
    assert "10 of 60 passages in " in tab.locator("#status").inner_text()
    assert complaints == [] and tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_instruction_changes_the_lists(shown: Shown) -> None:
    tab, complaints = shown
    ask(tab)
    before = tab.locator("#final .title").all_inner_texts()
    assert tab.locator("#instructions option").count() == 2
    tab.locator("#instruction").fill(OWN)
    tab.locator("#instruction").press("Enter")
    expect(tab.locator("#status")).to_contain_text(OWN)
    assert tab.locator("#final .title").all_inner_texts() != before and complaints == []


def test_results_are_walked_through_by_keyboard(shown: Shown) -> None:
    tab, _ = shown
    ask(tab)
    tab.locator("#query").blur()
    for key, wanted in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        tab.keyboard.press(key)
        assert tab.evaluate("[...document.querySelectorAll('li')].indexOf(document.activeElement)") == wanted
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "query"


def test_text_can_be_read_in_every_theme(shown: Shown) -> None:
    tab, _ = shown
    ask(tab)
    everything = "h1, h2, label, button, .hint, kbd, .rank, .title, .score, .move, .source, .text, input"
    contrasts: list[Any] = tab.locator(everything).filter(visible=True).evaluate_all(CONTRAST)
    assert len(contrasts) > 100 and min(contrasts) >= 4.5
    borders = """elements => elements.map(e => { e.style.color = getComputedStyle(e).borderTopColor; return e; })"""
    tab.locator("input").evaluate_all(borders)
    assert min(tab.locator("input").evaluate_all(CONTRAST)) >= 3  # WCAG 1.4.11: where a field is


def test_names_for_those_who_do_not_see_it(shown: Shown) -> None:
    tab, _ = shown
    ask(tab)
    tree = tab.locator("body").aria_snapshot()
    for part in ('searchbox "What do you look for?"', 'combobox "What kind of passage is wanted?"', 'button "Search"', "status:",
                 'region "Reranked"', 'region "First stage"'):
        assert part in tree, tree
    assert tab.locator("html").get_attribute("lang") == "en"


def test_what_documents_hold_is_shown_as_text(chromium: Browser, bundle: Path, tmp_path: Path) -> None:
    """A document, its title and its source with markup in them run nothing."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    row = {"id": "x", "text": f"{evil} text", "title": evil, "source": f"javascript:{evil}"}
    result = world.phasor("index", "build", bundle, world.write_rows(tmp_path / "rows.jsonl", [row]), "--index", tmp_path / "index")
    assert result.returncode == 0, result.stderr
    with world.serving(tmp_path / "log", bundle, "--index", tmp_path / "index", "--set", "engine.precision=float32") as served:
        tab, alerts = chromium.new_page(), list[str]()
        tab.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        tab.goto(served.url)
        ask(tab)
        assert tab.locator("#final .title").inner_text() == evil and evil in tab.locator("#final .text").inner_text()
        assert alerts == [] and tab.locator("#answer img, #answer script, #answer a").count() == 0
        assert tab.locator("#final").is_visible() and served.get("/").headers["content-security-policy"].startswith("default-src 'self'")
        tab.close()


def test_a_key_is_asked_for_by_the_browser_and_works(chromium: Browser, guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    locked = chromium.new_context()
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):  # nobody is there to type one
        locked.new_page().goto(guarded.url)
    opened = chromium.new_context(http_credentials={"username": "me", "password": keys[1]})
    tab = opened.new_page()
    tab.goto(guarded.url)
    ask(tab)
    assert tab.locator("#final li").count() == 10
    locked.close()
    opened.close()


def test_a_refusal_is_shown_in_words(chromium: Browser, guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    context = chromium.new_context(http_credentials={"username": "me", "password": keys[1]})
    tab = context.new_page()
    tab.goto(guarded.url)
    tab.route("**/v1/search", lambda route: route.continue_(post_data='{"query": "x", "k": 9999}'))
    tab.locator("#query").fill("x")
    tab.locator("#query").press("Enter")
    expect(tab.locator("#status")).to_have_text("k is 9999; at most 20 is allowed.")
    assert tab.locator("#status").get_attribute("class") == "problem"
    context.close()
