"""The comparison's HTML page in headless Chromium; colours are read from screenshots. `make test-browser` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bpkd.analysis.page import Section, Table, write_page
from bpkd.analysis.slider import Picture
from tests.helpers import comparison_pages
from tests.helpers.chromium import Chromium

pytestmark = pytest.mark.browser

RED, GREEN, BLUE = (200, 20, 20), (20, 180, 40), (30, 60, 220)
GREY, PINK, CYAN = (90, 90, 90), (240, 120, 200), (40, 200, 210)
TRUTH = 'truth <"&'
SCORES = ["57.88 ± 1.2", "", "9.5 ± 0.3", "-3", "57.88 ± 0.1", "1,204.5", "nan"]
METHODS = ["a", "b", "c", "d", "e", "f", "g"]


def solid(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((31, 41, 3), color, np.uint8)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    pictures = [
        Picture("first", solid(RED), {TRUTH: solid(GREEN), "BPKD": solid(BLUE)}),
        Picture("second", solid(GREY), {TRUTH: solid(PINK), "BPKD": solid(CYAN)}),
    ]
    rows = list(zip(METHODS, SCORES, ["R18", "R101", "R2", "r50", "HRNet", "", "R34"], strict=True))
    write_page(
        tmp_path / "page.html",
        title="Comparison",
        pictures=pictures,
        start=(TRUTH, "BPKD"),
        sections=[Section("Results", tables=[Table("Scores", ["method", "mIoU", "network"], rows)])],
    )
    with Chromium(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        yield browser
        assert browser.errors == []
        assert {url.split(":")[0] for url in browser.requests} == {"file", "data"}


def colors(browser: Chromium, *places: float) -> list[tuple[int, int, int]]:
    """The colours on the screen at these shares of the view's width, a quarter down from its top."""
    left, top, width, height = browser.box(".view")
    screen = browser.screenshot()
    return [tuple(screen[round(top + height / 4), round(left + width * x)].tolist()) for x in places]


def choose(browser: Chromium, part: str, label: str) -> None:
    """Chooses from a list by the keyboard, as a person does who types the entry's first letters."""
    browser.evaluate(f"document.querySelector('[data-part=\"{part}\"]').focus()")
    browser.call("Input.dispatchKeyEvent", type="char", text=label[0])


def test_mouse_moves_the_slider(browser: Chromium) -> None:
    left, top, width, height = browser.box(".view")
    assert width == 19 * 41  # a small picture is magnified by a whole factor
    assert colors(browser, 0.05, 0.45, 0.55, 0.95) == [GREEN, GREEN, BLUE, BLUE]
    y = top + height / 2
    browser.mouse(("Pressed", left + width * 0.5, y))
    browser.mouse(("Moved", left + width * 0.4, y), ("Moved", left + width * 0.2, y))
    assert colors(browser, 0.05, 0.17, 0.23, 0.95) == [GREEN, GREEN, BLUE, BLUE]
    browser.mouse(("Moved", left + width * 1.5, y), ("Released", left + width * 1.5, y))  # held, beyond the edge
    assert colors(browser, 0.05, 0.95) == [GREEN, GREEN]
    browser.mouse(("Moved", left + width * 0.3, y))  # let go: nothing follows
    assert colors(browser, 0.05, 0.95) == [GREEN, GREEN]


def test_arrow_keys_move_the_slider(browser: Chromium) -> None:
    browser.evaluate("document.querySelector('[data-part=\"swap\"]').focus()")
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.type") == "range"
    for _ in range(10):
        browser.press("ArrowRight", 39)
    assert colors(browser, 0.05, 0.57, 0.63, 0.95) == [GREEN, GREEN, BLUE, BLUE]
    browser.press("Home", 36)
    assert colors(browser, 0.05, 0.95) == [BLUE, BLUE]
    said = browser.evaluate("document.activeElement.getAttribute('aria-valuetext')")
    assert said == f"{TRUTH} on the left 0 %, BPKD on the right"


def test_arrow_keys_go_on_where_the_mouse_left_off(browser: Chromium) -> None:
    left, top, width, height = browser.box(".view")
    x, y = left + width * 0.2, top + height / 2
    browser.mouse(("Pressed", x, y), ("Released", x, y))
    for _ in range(10):
        browser.press("ArrowRight", 39)
    assert colors(browser, 0.27, 0.33) == [GREEN, BLUE]


def test_other_layers_and_pictures_keep_the_position(browser: Chromium) -> None:
    left, top, width, height = browser.box(".view")
    x, y = left + width * 0.3, top + height / 2
    browser.mouse(("Pressed", x, y), ("Released", x, y))
    assert colors(browser, 0.27, 0.33) == [GREEN, BLUE]
    choose(browser, "left-select", "image")
    assert colors(browser, 0.27, 0.33) == [RED, BLUE]
    browser.click('[data-part="swap"]')
    assert colors(browser, 0.27, 0.33) == [BLUE, RED]
    choose(browser, "picture", "second")
    assert colors(browser, 0.27, 0.33) == [CYAN, GREY]
    choose(browser, "right-select", TRUTH)
    assert colors(browser, 0.27, 0.33) == [CYAN, PINK]
    names = browser.evaluate("[...document.querySelectorAll('.names span')].map((e) => e.textContent)")
    assert names == ["BPKD", TRUTH]


def order(browser: Chromium) -> str:
    return str(browser.evaluate("[...document.querySelectorAll('tbody th')].map((e) => e.textContent).join('')"))


def states(browser: Chromium) -> list[str | None]:
    return list(browser.evaluate("[...document.querySelectorAll('thead th')].map((e) => e.getAttribute('aria-sort'))"))


def test_headers_sort_by_the_first_number(browser: Chromium) -> None:
    header = "thead th:nth-child(2) button"
    browser.click(header)
    assert order(browser) == "dcaefbg"  # equal numbers as written, cells without a number last
    assert states(browser) == [None, "ascending", None]
    browser.click(header)
    assert order(browser) == "faecdbg"
    assert states(browser) == [None, "descending", None]
    browser.click(header)
    assert order(browser) == "abcdefg"
    assert states(browser) == [None, None, None]


def test_headers_sort_words_from_the_keyboard(browser: Chromium) -> None:
    browser.evaluate("document.querySelector('thead th:nth-child(3) button').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, text="\r")
    assert order(browser) == "ecagdbf"  # HRNet, R2, R18, R34, r50, R101
    assert states(browser) == [None, None, "ascending"]


# What leaves its parent or the window, or is cut. Tables and wide figures may scroll sideways inside their frames.
OUTSIDE = """(() => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const name = (e) => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`;
  const found = [];
  for (const e of document.querySelectorAll("main, main *")) {
    const [own, parent] = [e, e.parentElement].map((one) => one.getBoundingClientRect());
    if (!own.width || !own.height || e.closest("option")) continue;
    const frame = e.parentElement.closest(".scroll, .plate.wide");
    const sideways = own.left < parent.left - 1 || own.right > parent.right + 1;
    const across = own.top < parent.top - 1 || own.bottom > parent.bottom + 1;
    const inline = getComputedStyle(e).display === "inline";
    if ((sideways && frame !== e.parentElement) || (across && !inline)) found.push(`outside its parent: ${name(e)}`);
    if (!frame && (own.left < -1 || own.right > innerWidth + 1)) found.push(`outside the window: ${name(e)}`);
    const frames = e.matches(".scroll, .plate.wide, select, input, .view, .view *");
    if (!frames && e.clientWidth && e.scrollWidth > e.clientWidth + 1) found.push(`cut: ${name(e)}`);
  }
  return found;
})()"""
SCROLLS = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser
        assert browser.errors == []


@pytest.mark.parametrize("case", comparison_pages.CASES)
def test_nothing_leaves_its_parent_or_the_window(case: str, window: Chromium, tmp_path: Path) -> None:
    path = comparison_pages.write(case, tmp_path / "report")
    for width in (390, 768, 1440):
        window.resize(width, 900)
        window.open(path)
        assert window.evaluate(OUTSIDE) == [], width
        assert window.evaluate("document.documentElement.scrollWidth") == width
    assert window.evaluate(SCROLLS) == 0  # at 1440 pixels every table fits


def test_selects_of_long_names_would_be_found(browser: Chromium) -> None:
    assert browser.evaluate(OUTSIDE) == []
    browser.evaluate("document.querySelector('[data-part=\"left-select\"]').style.width = '40rem'")
    assert any("SELECT" in line for line in browser.evaluate(OUTSIDE))


def test_folded_tables_are_printed(browser: Chromium, tmp_path: Path) -> None:
    table = Table("Runs", ["run", "seed"], [[f"run {i}", i] for i in range(3)], folded=True)
    write_page(tmp_path / "folded.html", title="T", sections=[Section("Runs", tables=[table])])
    browser.open(tmp_path / "folded.html")
    is_open = "document.querySelector('details').open"
    assert browser.evaluate(is_open) is False
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate(is_open) is True
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate(is_open) is False


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Chromium) -> None:
    browser.resize(360, 780, scale=2, mobile=True)
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    left, _, width, _ = browser.box(".view")
    assert left >= 0
    assert left + width <= 360
