"""The report: what the page says, that it is one harmless file, and that it is there whole or not at all."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from file_limit import file_limit
from PIL import Image

from longalign.errors import LongalignError
from longalign.report import Case, Estimate, Mark, Panel, Report, SentenceRow, Table, write_report
from longalign.report.plot import axis_for, plot_groups

VOID = {"meta", "link", "img", "br", "input"}
HOSTILE = """</style></title><script>alert(1)</script><img src=x onerror="alert(2)">&amp;'"{{ 7*7 }}"""


class Page(HTMLParser):
    """Elements, attributes and text of a page; refuses tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str, css_class: str | None = None) -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (css_class is None or css_class in (attrs.get("class") or "").split())
        ]


def picture(seed: int = 0, size: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def judged_case() -> Case:
    """Three sentences, the last one beyond the window; `plain` has 1 of 3 true, `segments` 2 of 3."""
    return Case(
        title="Scene 1",
        prompt="A cat sits. A dog runs. A bird flies.",
        panels=[Panel("plain", picture(1), file="images/0-plain.png"), Panel("segments", picture(2))],
        sentences=[
            SentenceRow("A cat sits.", False, {"plain": "true", "segments": "true"}),
            SentenceRow("A dog runs.", False, {"plain": "false", "segments": "unclear"}),
            SentenceRow("A bird flies.", True, {"plain": "false", "segments": "true"}),
        ],
    )


def accuracy() -> Table:
    return Table(
        "Sentences true",
        ["", "plain", "segments", "chance"],
        [["before", Estimate(0.5, 0.25, 1.0, 40), Estimate(0.9, 0.8, 0.95, 40), Estimate(0.2, 0.1, 0.3, 80)]],
        plot=True,
        baseline="chance",
    )


def render(report: Report, tmp_path: Path) -> tuple[Page, str]:
    html = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(html), html


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    """Every address in it is inline data or a place in the page, and its policy forbids all fetching."""
    page, html = render(Report("T", tables=[accuracy()], cases=[judged_case()]), tmp_path)
    addresses = [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in ("src", "href", "srcset")
    ]
    assert addresses and all((a or "").startswith(("data:", "#")) for a in addresses)
    assert "url(" not in html and "@import" not in html and "://" not in html
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and (policies[0] or "").startswith("default-src 'none'; img-src data:;")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """The same nasty string in every place that takes text makes no element and no attribute of its own.

    It is printed 28 times: title, headline, intro, fact (2), cut; either table's caption, heads, names, cell,
    note (6 + 6); the judged case's title, prompt, note, column (2), panel note and sentence (7); the other
    case's title, column and sentence (3). Its ``{{ 7*7 }}`` stays unevaluated.
    """
    sentence = SentenceRow(HOSTILE, True, {HOSTILE: "true"}, {HOSTILE: 0.5})
    judged = Case(
        HOSTILE, "other " + HOSTILE, [Panel(HOSTILE, picture(), note=HOSTILE)], [sentence], note=HOSTILE
    )
    plain = Case(HOSTILE, HOSTILE, [Panel(HOSTILE, picture())], [SentenceRow(HOSTILE)])
    tables = [
        Table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], plot=plot, note=HOSTILE)
        for plot in (True, False)
    ]
    report = Report(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, tables, [judged, plain], [HOSTILE])
    page, html = render(report, tmp_path)
    assert page.all("script") == []
    assert len(page.all("img")) == 2
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert page.text.count(HOSTILE) == 28
    assert "49" not in re.sub(r'src="[^"]*"', "", html.split("<body>")[1])


def test_control_characters_and_broken_text(tmp_path: Path) -> None:
    """NUL and escape show as �; a lone surrogate, which has no UTF-8, does not stop the writing."""
    _, html = render(Report("a\x00b\x1b[31mc", intro="caf\udc80"), tmp_path)
    assert "a�b�[31mc" in html and "\x00" not in html and "\x1b" not in html
    assert r"caf\udc80" in html


def test_pictures_are_inlined_pixel_for_pixel(tmp_path: Path) -> None:
    case = judged_case()
    page, _ = render(Report("T", cases=[case]), tmp_path)
    images = page.all("img")
    assert len(images) == 2
    for attrs, panel in zip(images, case.panels, strict=True):
        head, _, data = (attrs["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(panel.image)
        )
        assert (attrs["width"], attrs["height"]) == ("8", "8")
    assert [attrs["alt"] for attrs in images] == [
        "Scene 1, plain: 1 of 3 true",
        "Scene 1, segments: 2 of 3 true",
    ]


def test_large_and_odd_pictures(tmp_path: Path) -> None:
    """2,000 × 1,000 px is shrunk to 768 × 384 and not drawn pixelated; a mode that PNG lacks is converted."""
    panels = [Panel("large", Image.new("RGB", (2000, 1000))), Panel("print", Image.new("CMYK", (4, 4)))]
    page, _ = render(Report("T", cases=[Case("C", "p", panels)]), tmp_path)
    sources = [(attrs["src"] or "").partition(",")[2] for attrs in page.all("img")]
    sizes = [Image.open(io.BytesIO(base64.b64decode(source))).size for source in sources]
    assert sizes == [(768, 384), (4, 4)]
    assert page.all("article", "small") == []


def test_every_sentence_is_marked_in_every_column(tmp_path: Path) -> None:
    """Marks run along the rows: cat ✓✓, dog ✗?, bird ✗✓; the legend before them explains the three kinds."""
    page, _ = render(Report("T", cases=[judged_case()]), tmp_path)
    marks = [attrs["aria-label"] for attrs in page.all("svg", "mark")]
    assert marks == ["true", "false", "unclear", "true", "true", "false", "unclear", "false", "true"]
    assert all(attrs["role"] == "img" for attrs in page.all("svg", "mark"))
    text = " ".join(page.text.split())
    assert "beyond token 77 0/1 1/1 A bird flies." in text
    assert text.index("A dog runs.") < text.index("beyond token 77 0/1") < text.index("A bird flies.")
    assert "3 sentences, 1 beyond token 77" in text
    assert len(page.all("tbody", "beyond")) == 1


def test_a_column_without_verdict_is_not_judged(tmp_path: Path) -> None:
    """A missing verdict draws "unjudged" and is counted neither as true nor as false."""
    case = Case(
        "C",
        "One.",
        [Panel("a", picture()), Panel("b", picture())],
        [SentenceRow("One.", marks={"a": "true"})],
    )
    page, _ = render(Report("T", cases=[case]), tmp_path)
    assert [attrs["aria-label"] for attrs in page.all("svg", "mark")] == [
        "true",
        "not judged",
        "true",
        "not judged",
    ]
    assert [attrs["alt"] for attrs in page.all("img")] == ["C, a: 1 of 1 true", "C, b"]


def test_without_an_oracle_sentences_are_listed(tmp_path: Path) -> None:
    rows = [SentenceRow("One."), SentenceRow("Two.", True, {"sd15": "unjudged"})]
    page, _ = render(Report("T", cases=[Case("C", "One. Two.", [Panel("sd15", picture())], rows)]), tmp_path)
    assert page.all("svg", "mark") == [] and page.all("ul", "legend") == []
    assert len(page.all("ol", "sentences")) == 1
    assert len(page.all("li", "beyond")) == 1
    assert page.text.count("beyond token 77") == 1


def test_another_window_is_named(tmp_path: Path) -> None:
    page, _ = render(Report("T", cases=[judged_case()], window_tokens=64), tmp_path)
    assert "beyond token 64" in page.text and "77" not in page.text


def test_scores_stand_in_for_marks(tmp_path: Path) -> None:
    rows = [SentenceRow("One.", scores={"a": 0.256, "b": -0.031})]
    page, _ = render(
        Report("T", cases=[Case("C", "One.", [Panel("a", picture()), Panel("b", picture())], rows)]), tmp_path
    )
    assert page.all("svg", "mark") == []
    assert "0.26" in page.text and "−0.03" in page.text


def test_the_prompt_is_printed_when_its_sentences_do_not_say_it(tmp_path: Path) -> None:
    """Blanks apart, "A.  B." and the sentences "A." and "B." are the same text; "A. B. C." is more."""
    rows = [SentenceRow("A."), SentenceRow("B.")]
    for prompt, printed in [("A.  B.\n", 0), ("A. B. C.", 1)]:
        page, _ = render(Report("T", cases=[Case("C", prompt, [Panel("a", picture())], rows)]), tmp_path)
        assert len(page.all("p", "prompt")) == printed


def test_text_of_any_direction(tmp_path: Path) -> None:
    arabic = "قطة سوداء تجلس على كرسي أحمر."
    rows = [SentenceRow(arabic, False, {"a": "true"})]
    page, _ = render(Report(arabic, cases=[Case(arabic, arabic, [Panel("a", picture())], rows)]), tmp_path)
    assert [attrs.get("dir") for attrs in page.all("h1") + page.all("h3")] == ["auto", "auto"]
    assert [attrs.get("dir") for attrs in page.all("th") if attrs.get("scope") == "row"] == ["auto"]
    assert page.all("html") == [{"lang": "en"}]


def test_facts_tables_and_cuts_are_there(tmp_path: Path) -> None:
    table = Table(
        "Speed",
        ["Side", "Prompts a second"],
        [["ours", Estimate(12.5, 12.0, 13.0, 5, ".1f")], ["plain", "1.0"]],
    )
    report = Report("T", "First.\n\nSecond.", {"Seed": "7"}, [table], truncation=["Prompt 2 lost “a kite”."])
    page, html = render(report, tmp_path)
    text = " ".join(page.text.split())
    for expected in ("Seed7", "ours 12.5 12.0–13.0", "plain 1.0", "Prompt 2 lost “a kite”.", "longalign"):
        assert expected in text
    assert len(page.all("p", "intro")) == 2
    assert '<th scope="row">ours</th>' in html


def test_cases_come_first_where_they_are_all(tmp_path: Path) -> None:
    """Who has drawn or edited a picture wants to see it; figures are read before the pictures behind them."""
    alone = Report("T", facts={"Seed": "7"}, cases=[judged_case()], truncation=["Prompt 1: the end"])
    page, _ = render(alone, tmp_path)
    places = [page.text.index(text) for text in ("Picture by picture", "What was cut", "Seed")]
    assert places == sorted(places)
    page, _ = render(replace(alone, tables=[accuracy()]), tmp_path)
    places = [
        page.text.index(text) for text in ("Sentences true", "Seed", "What was cut", "Picture by picture")
    ]
    assert places == sorted(places)


def test_plots_come_before_the_facts(tmp_path: Path) -> None:
    """Whatever the order of the tables: drawn ones first, then those of numbers, then the run's facts."""
    numbers = Table("Numbers", ["", "x"], [["a", "1"]])
    page, _ = render(Report("T", facts={"Seed": "7"}, tables=[numbers, accuracy()]), tmp_path)
    assert page.text.index("Sentences true") < page.text.index("Numbers") < page.text.index("Seed")


def test_dots_stand_where_the_numbers_say(tmp_path: Path) -> None:
    """On an axis of 0 to 100 % the estimate 50 % (25–100 %) is a dot at half width, its bar from a quarter to
    the end; the hollow dot and the dashed line are at chance, 20 %.
    """
    page, _ = render(Report("T", tables=[accuracy()]), tmp_path)
    assert [attrs["cx"] for attrs in page.all("circle", "dot")] == ["50.0%", "90.0%"]
    assert [attrs["cx"] for attrs in page.all("circle", "hollow")] == ["20.0%"]
    bar = page.all("line", "bar")[0]
    assert (bar["x1"], bar["x2"]) == ("25.0%", "100.0%")
    assert {attrs["x1"] for attrs in page.all("line", "base")} == {"20.0%"}
    assert "50.0% 25.0–100.0%" in " ".join(page.text.split())


def test_an_estimate_of_nothing_is_not_drawn(tmp_path: Path) -> None:
    nothing = Estimate(float("nan"), 0.0, 1.0, 0)
    table = Table("T", ["", "a", "chance"], [["beyond", nothing, nothing]], plot=True, baseline="chance")
    page, _ = render(Report("T", tables=[table]), tmp_path)
    assert page.all("circle", "dot") == page.all("circle", "hollow") == page.all("line", "base") == []
    assert "—" in page.text and "nan" not in page.text


def test_axes_have_round_ticks() -> None:
    """Intervals from 23.9 to 36.2 span 12.3: steps of 5 need the fewest ticks up to four, from 20 to 40.
    Intervals from −0.02 to 0.06 span 0.08: steps of 0.02.
    """
    fid = axis_for([Estimate(24.6, 23.9, 25.2, 5, ".1f"), Estimate(36.0, 35.5, 36.2, 5, ".1f")])
    assert fid.ticks == (20.0, 25.0, 30.0, 35.0, 40.0)
    assert [fid.label(tick) for tick in fid.ticks] == ["20", "25", "30", "35", "40"]
    assert fid.at(30) == 50.0
    gain = axis_for([Estimate(0.02, -0.02, 0.06, 5, ".1%")])
    assert gain.ticks == (-0.02, 0.0, 0.02, 0.04, 0.06)
    assert gain.label(0.04) == "4%"
    point = axis_for([Estimate(7.0, 7.0, 7.0, 1, ".1f")])
    assert point.low <= 7.0 <= point.high and point.low < point.high
    share = axis_for([Estimate(0.5, 0.4, 0.6, 5)])
    assert (share.low, share.high) == (0.0, 1.0)


def test_groups_share_an_axis_where_they_can() -> None:
    share, number = Estimate(0.5, 0.4, 0.6, 5), Estimate(5.0, 4.0, 6.0, 5, ".1f")
    table = Table("T", ["", "a"], [["x", share], ["y", share], ["z", number]], plot=True)
    assert [group.show_axis for group in plot_groups(table)] == [False, True, True]


def test_tables_are_checked() -> None:
    with pytest.raises(ValueError, match="2 columns, a row of 1"):
        Table("T", ["", "a"], [["x"]])
    with pytest.raises(ValueError, match="baseline 'b'"):
        Table("T", ["", "a"], [["x", "1"]], baseline="b")


def test_jsonl_holds_the_same(tmp_path: Path) -> None:
    nothing = Table("None", ["", "a"], [["x", Estimate(float("nan"), 0.0, 1.0, 0)]])
    report = Report("T", facts={"Seed": "7"}, tables=[accuracy(), nothing], cases=[judged_case()])
    write_report(report, tmp_path / "report.html", jsonl=tmp_path / "report.jsonl")
    head, case = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert (head["kind"], head["facts"], case["kind"]) == ("report", {"Seed": "7"}, "case")
    assert head["tables"][0]["rows"][0][1] == {"value": 0.5, "low": 0.25, "high": 1.0, "n": 40, "level": 0.95}
    assert head["tables"][1]["rows"][0][1]["value"] is None
    assert case["panels"][0] == {
        "column": "plain", "width_px": 8, "height_px": 8, "file": "images/0-plain.png", "note": "",
    }  # fmt: skip
    assert [row["marks"] for row in case["sentences"]] == [dict(row.marks) for row in judged_case().sentences]
    assert [row["beyond"] for row in case["sentences"]] == [False, False, True]


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    report = Report("T", tables=[accuracy()], cases=[judged_case()])
    first = write_report(report, tmp_path / "a.html").read_bytes()
    assert write_report(report, tmp_path / "b.html").read_bytes() == first


def test_disk_full_leaves_no_half_report(tmp_path: Path) -> None:
    """The page is over 8 kB (its style sheet alone is) and 4 kB fit: the old report stays, alone."""
    path = tmp_path / "report.html"
    path.write_text("old")
    with file_limit(4096), pytest.raises(LongalignError, match=r"Cannot write .*report\.html"):
        write_report(Report("T", cases=[judged_case()]), path, jsonl=tmp_path / "report.jsonl")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_report_without_anything_is_still_a_page(tmp_path: Path) -> None:
    page, _ = render(Report("Only a headline"), tmp_path)
    assert "Only a headline" in page.text
    assert page.all("table") == page.all("article") == page.all("dl") == []


def _two_columns(*marks: tuple[str, Mark, Mark]) -> Case:
    rows = [SentenceRow(text, marks={"a": a, "b": b}) for text, a, b in marks]
    return Case("C", " ".join(row.text for row in rows), [Panel("a", picture()), Panel("b", picture())], rows)


def test_a_switch_shows_what_differs(tmp_path: Path) -> None:
    """A row whose marks are the same in both pictures has the class that the switch hides; no script is needed. Where
    nothing differs, or all, there is no switch."""
    case = _two_columns(("One.", "true", "true"), ("Two.", "true", "false"))
    page, html = render(Report("T", cases=[case]), tmp_path)
    assert [attrs["id"] for attrs in page.all("input")] == ["only-differs"]
    assert len(page.all("tr", "same")) == 1
    assert re.search(r'<tr class="same">\s*<th scope="row" dir="auto">One\.', html)
    assert ":has(.only-differs:checked)" in html and "<script" not in html
    for marks in (("true", "true"), ("true", "false")):
        page, _ = render(Report("T", cases=[_two_columns(("One.", *marks))]), tmp_path)
        assert page.all("input") == []


def test_cases_come_first_on_request(tmp_path: Path) -> None:
    """A link leads to the statistics below."""
    table = Table("Numbers", ["", "a"], [["x", Estimate(0.5, 0.4, 0.6, 10)]])
    case = _two_columns(("One.", "true", "false"))
    _, html = render(Report("T", cases=[case], tables=[table], cases_first=True), tmp_path)
    assert html.index("Picture by picture") < html.index("<caption>Numbers")
    assert 'href="#numbers"' in html and html.index('href="#numbers"') < html.index('id="numbers"')
    _, html = render(Report("T", cases=[case], tables=[table]), tmp_path)
    assert html.index("<caption>Numbers") < html.index("Picture by picture")


def test_false_where_it_should_be_is_no_cross(tmp_path: Path) -> None:
    """And true where it should be false is one; the tally counts what is as it should be: a 1, b 1 of 2."""
    rows = [
        SentenceRow("One.", marks={"a": "true", "b": "false"}),
        SentenceRow("Two.", marks={"a": "true", "b": "false"}, wanted={"a": "false", "b": "false"}),
    ]
    case = Case("C", "One. Two.", [Panel("a", picture()), Panel("b", picture())], rows)
    page, _ = render(Report("T", cases=[case]), tmp_path)
    labels = [attrs["aria-label"] for attrs in page.all("svg", "mark")]
    assert labels[-4:] == ["true", "false", "true, but should be false", "false, as it should be"]
    assert page.text.count("1 of 2 as they should be") == 2


def test_a_picture_aside_has_no_marks(tmp_path: Path) -> None:
    """A map of differences is no picture of the prompt: no dash stands below it, and the legend has none."""
    rows = [SentenceRow("One.", marks={"a": "true"})]
    panels = [Panel("a", picture()), Panel("difference", picture(), aside=True)]
    report = Report("T", cases=[Case("C", "One.", panels, rows)])
    page, _ = render(report, tmp_path)
    assert {attrs["aria-label"] for attrs in page.all("svg", "mark")} == {"true"}
    write_report(report, tmp_path / "report.html", jsonl=tmp_path / "report.jsonl")
    [_, line] = (tmp_path / "report.jsonl").read_text().splitlines()
    assert [panel.get("aside", False) for panel in json.loads(line)["panels"]] == [False, True]


def test_names_and_scores_are_explained(tmp_path: Path) -> None:
    rows = [SentenceRow("One.", scores={"a": 0.5})]
    case = Case("C", "One.", [Panel("a", picture())], rows)
    page, _ = render(Report("T", cases=[case], scores="P(true)", glossary={"SFT": "fine-tuning"}), tmp_path)
    assert "What the names mean: SFT" in page.text and "fine-tuning" in page.text and "P(true)" in page.text


def test_a_number_in_a_table_is_not_bold(tmp_path: Path) -> None:
    """Bold reads as "the best". Below 40 rem each cell has its column's name, so nothing is cut."""
    table = Table("Numbers", ["", "a", "b", "c"], [["x", Estimate(0.5, 0.4, 0.6, 10), "0.1", "—"]])
    page, html = render(Report("T", tables=[table]), tmp_path)
    assert "<b" not in html[html.index("<caption>") :]
    assert [attrs["data-column"] for attrs in page.all("td")] == ["a", "b", "c"]
    assert page.all("div", "wide")


def test_an_estimate_without_an_interval_is_a_dot_without_a_bar(tmp_path: Path) -> None:
    one = Estimate(0.5, float("nan"), float("nan"), 6)
    page, _ = render(Report("T", tables=[Table("N", ["", "a"], [["x", one]], plot=True)]), tmp_path)
    assert len(page.all("circle", "dot")) == 1 and page.all("line", "bar") == []
    assert "one prompt: no interval" in page.text
