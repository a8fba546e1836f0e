"""The comparison's HTML page, read without a browser (test_browser.py opens it in one)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpkd.analysis.page import Figure, Link, Section, Table, write_page
from bpkd.analysis.slider import Picture, png

REPO = Path(__file__).parents[2]
NASTY = "<b>\"road\" & 'sky'</script><script>alert(1)</script>"


RUN = Link("run 3", "../a run/<b>/")
ROWS = [["BPKD", "57.88 ± 1.2"], [NASTY, 3], [RUN, ""]]


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in ("meta", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag  # well-formed: what is opened is closed

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def with_tag(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def noise(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def labels(seed: int, colors: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (colors, 3)).astype(np.uint8)[rng.integers(0, colors, (24, 32))]


@pytest.fixture
def pictures() -> list[Picture]:
    return [
        Picture(f"scene {i}", noise(i), {"ground truth": labels(i), "2": labels(i + 9), NASTY: labels(7, 200)})
        for i in range(2)
    ]


@pytest.fixture
def page(tmp_path: Path, pictures: list[Picture]) -> Reader:
    Image.fromarray(noise(5)).save(tmp_path / "plot.png")
    size = write_page(
        tmp_path / "new" / "page.html",
        title=NASTY,
        lead=[NASTY, "about 95 % of it"],
        pictures=pictures,
        legend=[("sky", (1, 2, 3)), (NASTY, np.array([4, 5, 6], np.uint8))],
        sections=[
            Section("Results", tables=[Table("Scores", ["method", NASTY], ROWS, {(0, 1)})], hint=NASTY),
            Section("Glossary", terms=[(NASTY, NASTY)]),
            Section("Figures", figures=[Figure("drawn", tmp_path / "plot.png", NASTY)]),
            Section("Sources", [NASTY, "commit abc"]),
            Section("Nothing"),
        ],
    )
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert size == (tmp_path / "new" / "page.html").stat().st_size
    return Reader(text)


def test_nothing_is_fetched(page: Reader) -> None:
    assert not page.with_tag("link")
    assert [a["href"] for a in page.with_tag("a")[-1:]] == ["../a%20run/%3Cb%3E/"]  # followed by a click alone
    for tag, attrs in page.tags:
        if tag == "a":
            continue
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attrs.get(name) or "data:").startswith("data:"), (tag, name)
    assert not re.findall(r"url\(|@import|https?:|//[a-z]+\.", "".join(page.texts["style"]))
    assert not re.findall(r"fetch\(|XMLHttp|import |https?:", page.texts["script"][1])


def test_policy_allows_the_own_script_alone(page: Reader) -> None:
    (policy,) = [m["content"] or "" for m in page.with_tag("meta") if "http-equiv" in m]
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_text_is_escaped_wherever_it_stands(page: Reader) -> None:
    assert len(page.with_tag("script")) == 2
    assert not page.with_tag("b")
    for tag, count in {"title": 1, "h1": 1, "li": 2, "button": 1, "th": 1, "dt": 1, "dd": 1, "p": 2}.items():
        assert page.texts[tag].count(NASTY) == count, tag
    assert NASTY in [img["alt"] for img in page.with_tag("img")]
    assert page.texts["li"][-1] == "commit abc"
    assert [i["style"] for i in page.with_tag("i")] == ["background:rgb(1,2,3)", "background:rgb(4,5,6)"]
    assert [attrs["data-start"] for attrs in page.with_tag("select")[1:]] == ["image", NASTY]


def test_tables_can_be_sorted_by_their_headers(page: Reader) -> None:
    assert [th["scope"] for th in page.with_tag("th")] == ["col", "col", "row", "row", "row"]
    assert [text for text in page.texts["button"] if text != "Swap sides"] == ["method", NASTY]
    assert page.texts["td"] == ["", "3", "–"]


def test_the_best_cells_are_marked(page: Reader) -> None:
    assert page.texts["strong"] == ["57.88 ±\N{NO-BREAK SPACE}1.2"]
    assert [td.get("class") for td in page.with_tag("td")] == ["best spread", None, None]


def test_the_lead_comes_first_and_contents_lead_to_sections(page: Reader) -> None:
    assert page.texts["h2"] == ["Pictures", "Results", "Glossary", "Figures", "Sources"]  # in this order, none empty
    tags = [tag for tag, _ in page.tags]
    assert tags.index("h1") < tags.index("p") < tags.index("nav") < tags.index("section")
    assert page.texts["p"][1] == "about 95\N{NO-BREAK SPACE}% of it"
    places = [attrs["id"] for attrs in page.with_tag("section")]
    assert [attrs["href"] for attrs in page.with_tag("a")[:5]] == [f"#{place}" for place in places]


def test_pictures_come_back_pixel_by_pixel(page: Reader, pictures: list[Picture]) -> None:
    found = json.loads(page.texts["script"][0])
    assert [(p["name"], p["width"], p["height"]) for p in found] == [("scene 0", 32, 24), ("scene 1", 32, 24)]
    for stored, picture in zip(found, pictures, strict=True):
        expected = {"image": picture.image, **picture.layers}
        assert [label for label, _ in stored["layers"]] == list(expected)
        for label, uri in stored["layers"]:
            np.testing.assert_array_equal(decoded(uri), expected[label])


def test_figures_are_embedded(page: Reader) -> None:
    (figure,) = [img["src"] for img in page.with_tag("img") if img.get("src")]
    np.testing.assert_array_equal(decoded(figure or ""), noise(5))


def decoded(uri: str) -> np.ndarray:
    encoded = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.parametrize("colors", [1, 2, 12, 256])
def test_label_maps_are_stored_with_a_palette(colors: int) -> None:
    image = labels(colors, colors)
    encoded = png(image)
    assert Image.open(io.BytesIO(encoded)).mode == "P"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), image)


def test_empty_parts_leave_no_heading(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", title="T", sections=[Section("Results", tables=[Table("Scores", ["a"], [["1"]])])])
    page = Reader((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.texts["h2"] == ["Results"]
    assert not [attrs for attrs in page.with_tag("div") if attrs.get("id") == "slider"]


GOOD = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sections": [Section("S", tables=[Table("Scores", ["a", "b"], [["1"]])])]},
            "'Scores': expected 2 cells per row.*got 1",
        ),
        ({"pictures": [Picture("p", GOOD.transpose(2, 0, 1), {})]}, r"expected \[H, W, 3\].*got \[3, 4, 6\]"),
        ({"pictures": [Picture("p", GOOD, {"BPKD": GOOD[..., 0]})]}, r"'BPKD': .*got \[4, 6\]"),
        ({"pictures": [Picture("p", GOOD / 255, {})]}, "uint8, got .* of float64"),
        ({"pictures": [Picture("p", GOOD, {"a": GOOD, "b": GOOD[1:]})]}, r"one size, got .*'b': \(3, 6\)"),
        ({"pictures": [Picture("p", GOOD, {"image": GOOD})]}, "a layer is called 'image'"),
        ({"pictures": [Picture("p", GOOD, {"a": GOOD})], "start": ("a", "b")}, r"two of \['image', 'a'\], got 'b'"),
        (
            {"sections": [Section("S", figures=[Figure("plot", Path(__file__))])]},
            "'plot': expected a PNG file, got .*test_page.py",
        ),
    ],
)
def test_wrong_inputs_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_page(tmp_path / "p.html", title="T", **arguments)
    assert not (tmp_path / "p.html").exists()


def test_an_installed_package_has_the_pages_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("page.py", "page.html", "page.css", "page.js"):
        built = tmp_path / "bpkd" / "analysis" / name
        assert built.read_bytes() == (REPO / "bpkd" / "analysis" / name).read_bytes()
