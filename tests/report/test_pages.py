"""Many prompts in a folder of pages: every link leads somewhere, nothing comes from outside, no picture is lost."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from longalign.errors import LongalignError
from longalign.report import (
    Estimate,
    PageCase,
    PagePanel,
    Report,
    SentenceRow,
    SortedList,
    Table,
    worst_first,
    write_pages,
)
from longalign.report import pages as pages_module
from longalign.report.thumbnails import THUMBNAIL_PX, Thumbnails

HOSTILE = """</style></title><script>alert(1)</script><img src=x onerror="alert(2)">&amp;'"{{ 7*7 }}"""
COLUMNS = ("plain", "SFT")


class Page(HTMLParser):
    """Links, anchors and tags of a page; refuses tags that do not nest."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.policy = ""
        self.feed(file.read_text("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        assert not [name for name in given if name.startswith("on") or name == "srcset"]
        if given.get("id"):
            self.anchors.add(given["id"] or "")
        if tag == "img":
            self.images.append(given)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        self.links += [given[name] or "" for name in ("href", "src") if given.get(name)]
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def picture(file: Path, seed: int = 0, size: int = 8) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(file)
    return file


def case(number: int, files: list[Path], prompt: str = "", **more: object) -> PageCase:
    """Two sentences; the second one is true of SFT's picture only."""
    return PageCase(
        number,
        f"id-{number}",
        prompt or "A cat sits. A dog runs.",
        [PagePanel(column, file) for column, file in zip(COLUMNS, files, strict=True)],
        [
            SentenceRow("A cat sits.", False, {"plain": "true", "SFT": "true"}),
            SentenceRow("A dog runs.", True, {"plain": "false", "SFT": "true"}),
        ],
        {"plain": {"oracle": 0.5}, "SFT": {"oracle": 1.0}},
        **more,  # type: ignore[arg-type]
    )


def values(count: int) -> dict[str, dict[int, float]]:
    """SFT falls behind more, the higher the number; prompt 1 has no number in SFT."""
    return {
        "plain": dict.fromkeys(range(1, count + 1), 0.5),
        "SFT": {n: math.nan if n == 1 else 0.5 - n / 1000 for n in range(1, count + 1)},
    }


def every_page(folder: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in [folder / "report.html", *(folder / "pages").glob("*.html")]}


def hashes(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 cases with two lists; their pictures are of 8 px, but those of prompt 7, which are larger than thumbnails."""
    folder = tmp_path_factory.mktemp("many") / "a run"
    small = [picture(folder / "images" / f"{column} #1?%.png", k) for k, column in enumerate(COLUMNS)]
    large = [picture(folder / "images" / f"large {column}.png", k, 400) for k, column in enumerate(COLUMNS)]

    def stream() -> Iterator[PageCase]:
        for number in range(1, 301):
            yield case(number, large if number == 7 else small)

    lists = [
        worst_first("fall", "Where SFT falls behind plain", values(300), of="SFT", against="plain"),
        worst_first("plain", "The worst of plain", values(300), of="plain"),
    ]
    write_pages(Report("Runs", facts={"seed": "1"}), stream(), folder, lists=lists)
    return folder


def test_every_link_leads_to_a_file_and_a_place(many: Path) -> None:
    """300 cases on 6 pages of 50, two lists of one page each (299 and 300 rows), and the first page."""
    found = every_page(many)
    assert sorted(file.name for file in found) == sorted(
        [
            "report.html",
            "by-fall-0001.html",
            "by-plain-0001.html",
            *(f"cases-{k:04d}.html" for k in range(1, 7)),
        ]
    )
    for file, page in found.items():
        links = [link for link in page.links if not link.startswith("data:")]
        assert len(links) > 2
        for link in links:
            path, _, anchor = link.partition("#")
            target = Path(os.path.normpath(file.parent / unquote(path))) if path else file
            assert target.is_file(), link
            if anchor and target.suffix == ".html":
                assert anchor in found[target].anchors, link
    assert all(f"case-{n}" in found[many / "pages" / "cases-0002.html"].anchors for n in range(51, 101))


def test_pages_need_no_script_and_nothing_from_outside(many: Path) -> None:
    for file, page in every_page(many).items():
        assert "script" not in page.tags and "iframe" not in page.tags
        assert page.policy.startswith(
            "default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'"
        )
        assert "://" not in (html := file.read_text("utf-8")) and "url(" not in html
        assert all(link.startswith(("data:,", "#")) or ":" not in link for link in page.links)


def test_pictures_are_loaded_late_at_a_known_size(many: Path) -> None:
    """The picture of 400 px is shown as a thumbnail of at most 192 px which leads to it; one of 8 px is its own."""
    page = Page(many / "pages" / "cases-0001.html")
    assert len(page.images) == 100
    assert all(image["loading"] == "lazy" for image in page.images)
    large = page.images[12]
    assert large["src"].startswith("../thumbnails/") and (large["width"], large["height"]) == ("192", "192")  # type: ignore[union-attr]
    assert "../images/large%20plain.png" in page.links
    assert page.images[0]["src"] == "../images/plain%20%231%3F%25.png" and page.images[0]["width"] == "8"
    with Image.open(many / "pages" / str(large["src"])) as thumbnail:
        assert max(thumbnail.size) == THUMBNAIL_PX
    assert len(list((many / "thumbnails").rglob("*.jpg"))) == 2


def test_pages_are_light(many: Path) -> None:
    assert (many / "report.html").stat().st_size < 100_000
    assert max(file.stat().st_size for file in (many / "pages").iterdir()) < 1_000_000


def test_lists_begin_with_the_worst(many: Path) -> None:
    """SFT − plain of prompt n is −n/1000, −30.0 points for the last one; prompt 1 has no number and is left out. In the
    list of plain all are equal, so they keep their order.
    """
    page = Page(many / "pages" / "by-fall-0001.html")
    cases = [link for link in page.links if "#case-" in link]
    assert cases[:2] == ["cases-0006.html#case-300", "cases-0006.html#case-299"] and len(cases) == 299
    assert "SFT − plain (points)" in page.text and "−30.0" in page.text and "20.0%" in page.text
    other = [link for link in Page(many / "pages" / "by-plain-0001.html").links if "#case-" in link]
    assert other[0] == "cases-0001.html#case-1" and len(other) == 300
    first = (many / "report.html").read_text("utf-8")
    assert re.findall(r'class="why">([^<]*)<', first) == [
        "First in: Where SFT falls behind plain",
        "First in: The worst of plain",
    ]
    assert re.findall(r'<article[^>]* id="(case-\d+)"', first) == ["case-300", "case-1"]


def test_worst_first_by_hand() -> None:
    """Of 3, 1, 2 the worst is 1 where higher is better, and 3 where lower is. Against 1, 5, 2 the differences are
    2, −4, 0. Equals are in the order of their numbers, and what is not finite is left out.
    """
    numbers = {"a": {1: 3.0, 2: 1.0, 3: 2.0, 4: math.inf}, "b": {1: 1.0, 2: 5.0, 3: 2.0}}
    assert worst_first("x", "X", numbers, of="a").order == [2, 3, 1]
    assert worst_first("x", "X", numbers, of="a", better="lower").order == [1, 3, 2]
    assert worst_first("x", "X", numbers, of="a", against="b").order == [2, 3, 1]
    assert worst_first("x", "X", numbers, of="a", against="b", better="lower").order == [1, 3, 2]
    assert worst_first("x", "X", {"a": {9: 1.0, 8: 1.0, 7: 1.0}}, of="a").order == [7, 8, 9]


def test_the_same_input_gives_the_same_bytes_and_thumbnails_are_kept(tmp_path: Path) -> None:
    """The second call makes no thumbnail. That of a picture that has changed since is made again, and a broken one."""
    files = [picture(tmp_path / f"{k}.png", k, 240) for k in range(2)]

    def write() -> None:
        write_pages(Report("Runs"), [case(n, files) for n in (1, 2, 3)], tmp_path / "run", per_page=2)

    write()
    before = hashes(tmp_path / "run")
    thumbnails = sorted((tmp_path / "run" / "thumbnails").rglob("*.jpg"))
    assert len(thumbnails) == 2
    for file in [*files, *thumbnails]:  # pictures were made at 1000 s, thumbnails at 2000 s
        os.utime(file, (2000, 2000) if file in thumbnails else (1000, 1000))
    write()
    assert hashes(tmp_path / "run") == before
    assert {file.stat().st_mtime for file in thumbnails} == {2000}
    os.utime(files[0], (3000, 3000))
    write()
    assert hashes(tmp_path / "run") == before
    kept, made = sorted(thumbnails, key=lambda file: file.stat().st_mtime)
    assert kept.stat().st_mtime == 2000 and made.stat().st_mtime > 3000
    kept.write_bytes(b"")
    write()
    assert hashes(tmp_path / "run") == before


def test_pages_of_an_earlier_call_go_and_other_files_stay(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    cases = [case(n, [file, file]) for n in range(1, 6)]
    old = worst_first("old", "Old", {"plain": {1: 0.0}}, of="plain")
    write_pages(Report("Runs"), cases, tmp_path / "run", per_page=1, lists=[old])
    (tmp_path / "run" / "pages" / "mine.html").write_text("mine")
    write_pages(Report("Runs"), cases[:3], tmp_path / "run", per_page=1)
    names = sorted(f.name for f in (tmp_path / "run" / "pages").iterdir())
    assert names == ["cases-0001.html", "cases-0002.html", "cases-0003.html", "mine.html"]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """The same nasty string in every place that takes text. Its ``{{ 7*7 }}`` stays as it is."""
    file = picture(tmp_path / "a.png")
    hostile = PageCase(
        1,
        HOSTILE,
        HOSTILE + " more",
        [PagePanel(HOSTILE, file, HOSTILE, HOSTILE), PagePanel("gone", tmp_path / HOSTILE.replace("/", ""))],
        [SentenceRow(HOSTILE, True, {HOSTILE: "true"})],
        {HOSTILE: {HOSTILE: HOSTILE, **{str(k): 1.0 for k in range(5)}}},
        HOSTILE,
    )
    chosen = SortedList("x", HOSTILE, [1], {HOSTILE: {1: 0.5}}, HOSTILE, note=HOSTILE)
    write_pages(Report(HOSTILE), [hostile], tmp_path / "run", lists=[chosen])
    for page in every_page(tmp_path / "run").values():
        assert not page.tags & {"script", "b"} - {"b"} and all(image["src"] != "x" for image in page.images)
        assert HOSTILE in page.text and "49" not in page.text
        assert all("script" not in unquote(link) or "gone" in link for link in page.links)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"no picture", "no picture that can be read here"),
        (b"cut", "damaged: "),
    ],
)
def test_a_missing_or_broken_picture_is_a_placeholder(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The page of the prompt says why, and the first page counts it; the other picture is there."""
    good = picture(tmp_path / "good.png", size=64)
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(good.read_bytes()[:-40] if content == b"cut" else content)
    broken = case(1, [bad, good])
    write_pages(Report("Runs"), [broken, case(2, [good, good])], tmp_path / "run")
    page, first = Page(tmp_path / "run" / "pages" / "cases-0001.html"), Page(tmp_path / "run" / "report.html")
    assert f"No picture: {reason}" in page.text and len(page.images) == 3
    assert f"plain: {reason}" in first.text and "pages/cases-0001.html#case-1" in first.links
    assert str(tmp_path) not in page.text


def test_a_folder_a_pipe_and_a_flag(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    flagged = PageCase(
        5, "", "A cat.", [PagePanel("plain", tmp_path), PagePanel("SFT", good, flagged="blank")]
    )
    first = Page(write_pages(Report("Runs"), [flagged], tmp_path / "run"))
    assert "plain: is a directory" in first.text and "SFT: blank: 1 picture" in first.text


def test_odd_pictures_become_thumbnails(tmp_path: Path) -> None:
    """16 bits keep their scale (half of 65,535 is grey), transparency is white, and EXIF turns 300 × 150 upright."""
    Image.fromarray(np.full((300, 300), 32768, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 150)).save(tmp_path / "turned.jpg", exif=exif)
    thumbnails = Thumbnails(tmp_path)
    pixels = {}
    for name in ("deep.png", "clear.png", "turned.jpg"):
        shown = thumbnails.of(tmp_path / name)
        with Image.open(tmp_path / shown.source) as image:
            pixels[name] = (image.size, image.getpixel((10, 10)))
            assert image.size == (shown.width, shown.height)
    assert pixels == {
        "deep.png": ((192, 192), (128, 128, 128)),
        "clear.png": ((192, 192), (255, 255, 255)),
        "turned.jpg": ((96, 192), (0, 0, 0)),
    }


def test_cases_are_a_stream(tmp_path: Path) -> None:
    """When a case is on its page, the stream is ahead of it by no more than what the threads work on."""
    file = picture(tmp_path / "a.png")
    drawn, ahead = 0, []

    def stream() -> Iterator[PageCase]:
        nonlocal drawn
        for drawn in range(1, 101):
            yield case(drawn, [file, file])

    write_pages(Report("R"), stream(), tmp_path / "run", on_case=lambda c: ahead.append(drawn - c.number))
    assert len(ahead) == 100 and max(ahead) <= 2 * pages_module._WORKERS


def test_long_prompts_make_more_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three cases is larger than half of a page."""
    file = picture(tmp_path / "a.png")
    monkeypatch.setattr(pages_module, "MOST_PAGE_BYTES", 40_000)
    cases = [case(n, [file, file], prompt="word " * 5000) for n in (1, 2, 3)]
    write_pages(Report("R"), cases, tmp_path / "run")
    assert len(list((tmp_path / "run" / "pages").iterdir())) == 3


def test_long_lists_have_several_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of prompts without a case are left out: 5 of 7 remain, two on a page."""
    monkeypatch.setattr(pages_module, "LIST_ROWS", 2)
    file = picture(tmp_path / "a.png")
    chosen = SortedList(
        "x", "X", range(7, 0, -1), {"plain": {n: float(n) for n in range(8)}}, "plain", format=".0f"
    )
    write_pages(Report("R"), [case(n, [file, file]) for n in range(1, 6)], tmp_path / "run", lists=[chosen])
    middle = Page(tmp_path / "run" / "pages" / "by-x-0002.html")
    assert [link for link in middle.links if "case" in link] == [f"cases-0001.html#case-{n}" for n in (3, 2)]
    assert {"by-x-0001.html", "by-x-0003.html"} <= set(middle.links) and "Rank 3–4 of 5" in middle.text


def test_nothing_is_still_a_page(tmp_path: Path) -> None:
    empty = SortedList("x", "X", [1], {"plain": {}}, "plain")
    page = Page(write_pages(Report("Empty"), [], tmp_path / "run", lists=[empty]))
    assert "0 prompts" in page.text and not (tmp_path / "run" / "pages").exists()


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    chosen = worst_first("x", "X", {"plain": {1: 0.0}}, of="plain")
    with pytest.raises(ValueError, match="two cases have the number 1"):
        write_pages(Report("R"), [case(1, [file, file])] * 2, tmp_path / "run")
    with pytest.raises(ValueError, match="lists with the same name"):
        write_pages(Report("R"), [], tmp_path / "run", lists=[chosen, chosen])
    with pytest.raises(ValueError, match="per_page 0"):
        write_pages(Report("R"), [], tmp_path / "run", per_page=0)
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        SortedList("../x", "X", [], {"plain": {}}, "plain")
    with pytest.raises(ValueError, match="column 'SFT' is none of"):
        SortedList("x", "X", [], {"plain": {}}, "SFT")
    (tmp_path / "file").write_text("")
    with pytest.raises(LongalignError, match="Cannot write"):
        write_pages(Report("R"), [case(1, [file, file])], tmp_path / "file")


def test_tables_and_lists_print_numbers_of_any_kind(tmp_path: Path) -> None:
    """Below a picture stand four numbers at most, all six of them in a table."""
    file = picture(tmp_path / "a.png")
    numbers = {"SFT": {"a": 123.456, "b": 12.345, "c": 0.1234, "d": math.nan, "e": "text", "f": -1.0}}
    given = PageCase(1, "", "A cat.", [PagePanel("SFT", file)], (), numbers)
    table = Table("T", ["", "x"], [["SFT", Estimate(0.5, 0.4, 0.6, 9)]])
    write_pages(Report("R", tables=[table]), [given], tmp_path / "run")
    html = (tmp_path / "run" / "pages" / "cases-0001.html").read_text("utf-8")
    assert re.findall(r"<dd>([^<]*)</dd>", html) == ["123.5", "12.35", "0.123", "—"]
    assert re.findall(r"<td>([^<]*)</td>", html) == ["123.5", "12.35", "0.123", "—", "text", "−1.00"]
