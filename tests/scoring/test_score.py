"""Scores of streams of pairs: the numbers of `PreferenceModel.score`, whatever else is in the stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_model

from longalign.cli.show_scores import bar, style_of
from longalign.errors import Interrupted, LongalignError
from longalign.preference import PreferenceModel, SegmentScore
from longalign.preference.decomposition import Decomposition, fit_prompts
from longalign.scoring.data import (
    Failure,
    Pair,
)
from longalign.scoring.decompose import (
    Reservoir,
    decompose,
    fit_stream,
    merge_files,
)
from longalign.scoring.histogram import histogram
from longalign.scoring.measure import SCORES, measure, separation
from longalign.scoring.outcome import (
    ScoreConfig,
)
from longalign.scoring.page import bars_of
from longalign.scoring.prompt_blocks import shard_of
from longalign.scoring.ranking import Lowest, Summary, rank, worst_row
from longalign.scoring.score import (
    score,
)
from longalign.scoring.stream import Scored, score_pairs

TEXTS = ("A fox is in the top left. The background is navy.", "A pig is here.", "A crab. A fox. A heart.")


@pytest.fixture(scope="module")
def model() -> PreferenceModel:
    model = tiny_model()
    model.decomposition = fit_prompts(model, TEXTS)
    return model


def picture(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Five files of several shapes, with texts that share sentences."""
    made = []
    for i in range(5):
        picture(i, 30 + 7 * i, 44).save(tmp_path / f"{i}.png")
        made.append(Pair(tmp_path / f"{i}.png", TEXTS[i % 3], f"{i}.png"))
    return made


def scored(values: list[float], overall: float = 0.0, text: str = "t", name: str = "n") -> Scored:
    segments = [SegmentScore(f"s{k}", value) for k, value in enumerate(values)]
    return Scored(Pair("x.png", text, name), {"overall": overall}, segments)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_numbers_are_those_of_the_model(
    model: PreferenceModel, pairs: list[Pair], batch_size: int
) -> None:
    expected = model.score([pair.image for pair in pairs], [pair.text for pair in pairs]).rows()
    found = list(score_pairs(model, iter(pairs), batch_size=batch_size))
    assert [item.pair for item in found if isinstance(item, Scored)] == pairs
    for item, row in zip(found, expected, strict=True):
        assert isinstance(item, Scored)
        plain = item.to_json()
        for name in ("overall", "single", "aligned", "aligned_cosine", "irrelevant", "eta"):
            assert plain[name] == pytest.approx(row[name], abs=1e-4)
        for mine, its in zip(plain["segments"], row["segments"], strict=True):
            assert mine["text"] == its["text"]
            assert [mine["score"], mine["aligned"]] == pytest.approx([its["score"], its["aligned"]], abs=1e-4)
        assert plain["segments"][plain["worst"]]["aligned"] == min(s["aligned"] for s in plain["segments"])


def test_a_sentence_is_encoded_once_in_the_whole_stream(
    model: PreferenceModel, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts of five pairs have 2 + 1 + 3 sentences; two of them are whole texts of several sentences."""
    seen: list[str] = []
    text = PreferenceModel.text_parts

    def watched(self: PreferenceModel, texts: list[str], **options: bool) -> Any:
        seen.extend(texts)
        return text(self, texts, **options)

    monkeypatch.setattr(PreferenceModel, "text_parts", watched)
    list(score_pairs(model, pairs, batch_size=2))
    assert len(seen) == len(set(seen)) == 6 + 2


def test_relative_is_the_difference_from_the_other_pictures(
    model: PreferenceModel, pairs: list[Pair]
) -> None:
    """By the slow way: every sentence against every picture, with `model.score`."""
    found = list(score_pairs(model, pairs, relative=True, batch_size=2))
    for i, item in enumerate(found):
        assert isinstance(item, Scored) and item.relative is not None
        table = model.score([p.image for p in pairs], [item.pair.text] * len(pairs)).segments
        for k, value in enumerate(item.relative):
            others = [table[j][k].best for j in range(len(pairs)) if j != i]
            assert value == pytest.approx(table[i][k].best - sum(others) / len(others), abs=1e-3)
        assert item.worst == item.relative.index(min(item.relative))
    with pytest.raises(LongalignError, match="at least two"):
        list(score_pairs(model, pairs[:1], relative=True))


def test_what_cannot_be_read_is_left_out_in_its_place(
    model: PreferenceModel, pairs: list[Pair], tmp_path: Path
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (2000, 3)).save(tmp_path / "strip.png")
    bad = [Pair(tmp_path / f"{name}.png", TEXTS[1], name) for name in ("empty", "text", "strip", "missing")]
    bad.append(Pair(pairs[0].image, "  ", "blank"))
    stream = [bad[0], pairs[0], *bad[1:], Failure("line 7", "is no JSON"), pairs[1]]
    found = list(score_pairs(model, stream, batch_size=3))
    assert [type(x) for x in found] == [Failure, Scored, *[Failure] * 5, Scored]
    reasons = {x.name: x.reason for x in found if isinstance(x, Failure)}
    assert reasons == {
        "empty": "the file is empty (0 bytes)",
        "text": "is no picture, or of a format that Pillow cannot read",
        "strip": "a picture of 2000 × 3 pixels is too long a strip (more than 100 to 1): a model sees a square; "
        "cut it into pieces",
        "missing": "no such image file",
        "blank": "its caption is empty",
        "line 7": "is no JSON",
    }
    [_, alone] = score_pairs(model, pairs[:2])
    assert isinstance(alone, Scored) and isinstance(found[-1], Scored)
    assert found[-1].scores["overall"] == pytest.approx(alone.scores["overall"], abs=1e-4)


def test_pictures_of_every_kind_score_as_plain_rgb(model: PreferenceModel, tmp_path: Path) -> None:
    """CMYK, 16 bits, opaque alpha and an EXIF turn show the same grey picture, so they score the same.

    16 bits: grey g is stored as 257·g, exactly g again on reading. CMYK without ink but black is exact, too.
    """
    grey = picture(0).convert("L")
    kinds = {
        "plain.png": grey.convert("RGB"),
        "alpha.png": grey.convert("RGBA"),
        "deep.png": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "cmyk.tif": grey.convert("RGB").convert("CMYK"),
        "turned.png": grey.convert("RGB").transpose(Image.Transpose.ROTATE_90),
    }
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270°
    for name, image in kinds.items():
        image.save(tmp_path / name, **({"exif": exif} if name == "turned.png" else {}))
    found = list(score_pairs(model, [Pair(tmp_path / name, TEXTS[0], name) for name in kinds]))
    values = [item.scores["overall"] for item in found if isinstance(item, Scored)]
    assert values == pytest.approx([values[0]] * len(kinds), abs=1e-3)


def test_ranking_by_hand() -> None:
    """Sentence 0: picture 1 has 9 > 5 > 2; sentence 1: a draw at 4 goes to the earlier picture."""
    items = [scored([5, 4], 4.5), scored([9, 1], 5.0), scored([2, 4], 3.0)]
    found = rank(items)
    assert found.order == [1, 0, 2] and found.best == [1, 0]
    assert [found.place(i) for i in range(3)] == [2, 1, 3]
    with pytest.raises(LongalignError, match="same prompt"):
        rank([scored([1]), scored([1], text="another")])


def test_lowest_keeps_the_lowest_in_order() -> None:
    """Worst sentences 3, 1, 2, 1, 5; the three lowest are 1 (b), 1 (d), 2 (c)."""
    lowest = Lowest(3)
    for name, worst in zip("abcde", (3, 1, 2, 1, 5), strict=True):
        lowest.add(scored([worst + 1, worst, worst + 3], name=name))
    assert [item.pair.name for item in lowest.sorted()] == ["b", "d", "c"]
    row = worst_row(lowest.sorted()[0])
    assert (row["sentence"], row["index"], row["score"], row["others"]) == ("s1", 1, 1, 3.0)
    assert worst_row(scored([7]))["others"] is None
    none = Lowest(0)
    none.add(scored([1]))
    assert none.sorted() == []


def test_summary_is_mean_and_deviation() -> None:
    """Of 1, 2 and 6: mean 3, squares 4 + 1 + 9 = 14, deviation √7."""
    summary = Summary()
    for value in (1.0, 2.0, 6.0):
        summary.add(scored([value], overall=value))
    assert summary.mean["overall"] == pytest.approx(3) and summary.deviation("overall") == pytest.approx(
        7**0.5
    )


def test_histogram_by_hand() -> None:
    """Eight bins from 0 to 8: of (0, 1, 1, 8) a quarter is in bins 0 and 7, half in bin 1; so the top is 50 %."""
    plot = histogram("t", {"a": [0, 1, 1, 8, float("nan")], "none": []}, x_label="x", y_label="y")
    assert plot is not None
    [series] = plot.series
    assert (series.n, series.mean, plot.top) == (4, 2.5, 0.5)
    assert [height for _, _, height in series.bars] == [50, 100, 50]
    assert (plot.axis.low, plot.axis.high) == (0, 8) and series.bars[1][:2] == (12.5, 12.5)
    assert plot.shares == [(0, "0%"), (50, "25%"), (100, "50%")]
    assert histogram("t", {"a": []}, x_label="x", y_label="y") is None
    same = histogram("t", {"a": [3, 3]}, x_label="x", y_label="y")
    assert same is not None and [h for _, _, h in same.series[0].bars] == [100]


def test_a_run_folder_holds_it_all(model: PreferenceModel, pairs: list[Pair], tmp_path: Path) -> None:
    (tmp_path / "bad.png").touch()
    stream = [*pairs, Pair(tmp_path / "bad.png", "A fox.", "bad <b>.png")]
    done = score(stream, ScoreConfig(worst=2), keep=False, model=model, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [p.name for p in stream] and "empty" in lines[-1]["error"]
    assert len((tmp_path / "run/worst.jsonl").read_text().splitlines()) == 2 and not done.kept
    page = (tmp_path / "run/report.html").read_text()
    assert page.count('class="thumb') == 2 and "bad &lt;b&gt;.png" in page and "<b>.png" not in page
    assert all(part not in page for part in ("<script", "http://", "https://"))
    assert [done.summary.scored, done.summary.failed] == [5, 1]
    with pytest.raises(LongalignError, match=r"nothing could be scored: 1 failed, such as bad .*empty"):
        score(stream[-1:], ScoreConfig(), model=model)


def test_pages_of_one_picture_and_of_a_ranking(
    model: PreferenceModel, pairs: list[Pair], tmp_path: Path
) -> None:
    one = score(pairs[2:3], ScoreConfig(), model=model, out=tmp_path / "one")
    page = (tmp_path / "one/report.html").read_text()
    assert one.ranking is None and page.count('class="flag low"') == 1 and page.count('class="fill ') == 3
    same = [Pair(p.image, TEXTS[2], p.name) for p in pairs]
    several = score(same, ScoreConfig(), model=model, out=tmp_path / "several")
    page = (tmp_path / "several/report.html").read_text()
    assert several.ranking is not None and page.count("measure top") == 3 and page.count('class="fill ') == 15
    assert "What the names mean: overall · first tokens · aligned" in page


# decompose


def test_shards_merge_to_the_whole(model: PreferenceModel, tmp_path: Path) -> None:
    texts = [f"A fox number {i}. A pig." for i in range(7)]
    whole, sample = fit_stream(model, texts, chunk=3, sample=4)
    files = []
    for i in range(3):
        part, _ = fit_stream(model, shard_of(texts, f"{i}/3"))
        files.append(part.save(tmp_path / f"{i}.safetensors"))
    merged = merge_files(files, model.width)
    assert (merged.count, merged.source) == (whole.count, whole.source) == (7, whole.source)
    assert torch.allclose(merged.V, whole.V, rtol=0, atol=1e-7)
    assert len(sample) == 4 and set(sample) <= set(texts)
    for shard in ("3/3", "x", "1", "-1/3"):
        with pytest.raises(LongalignError, match="a shard is written as"):
            shard_of(texts, shard)


def test_a_reservoir_is_a_fair_sample() -> None:
    """2 of 5, 4,000 times: each is kept with probability 2/5, so 1,600 times; 5 deviations of √(4000·.4·.6) = 31."""
    counts = dict.fromkeys("abcde", 0)
    for seed in range(4000):
        reservoir = Reservoir(2, seed)
        for text in "abcde":
            reservoir.add(text)
        for text in reservoir.kept:
            counts[text] += 1
    assert all(abs(n - 1600) < 155 for n in counts.values())


def test_measured_scores_add_up(model: PreferenceModel, pairs: list[Pair]) -> None:
    """Whole = relevant + irrelevant part, paired and unpaired. Where the other caption is equal, nothing is unpaired.

    Five pairs with texts 0 1 2 0 1, each against the one two further on: 0–2, 1–0, 2–1, 0–0 (left out), 1–1 (left out).
    """
    assert model.decomposition is not None
    found = measure(model, model.decomposition, [*pairs, Failure("x", "y")])
    whole, relevant, irrelevant = SCORES
    for part in (found.paired, found.unpaired):
        assert torch.allclose(part[whole], part[relevant] + part[irrelevant], atol=1e-4)
    scores = model.score([p.image for p in pairs], [p.text for p in pairs])
    assert torch.allclose(found.paired[whole], scores.overall, atol=1e-3)
    assert scores.irrelevant is not None and torch.allclose(found.irrelevant, scores.irrelevant, atol=1e-3)
    other = model.score([pairs[0].image], [pairs[2].text])
    assert float(found.unpaired[whole][0]) == pytest.approx(float(other.overall[0]), abs=1e-3)
    assert len(found.unpaired[whole]) == 3 and found.failed == 1
    with pytest.raises(LongalignError, match="at least two pairs; 1 could be read"):
        measure(model, model.decomposition, pairs[:1])


def test_separation_by_hand() -> None:
    """Of the six pairs (1, 0) (1, 1) (1, 2) (3, 0) (3, 1) (3, 2) four are above and one is a draw: 4.5 / 6."""
    assert separation(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0, 1.0])) == pytest.approx(0.75)


def test_decompose_writes_the_file_and_the_page(
    model: PreferenceModel, pairs: list[Pair], tmp_path: Path
) -> None:
    done = decompose(model, TEXTS, pairs, gallery=2, out=tmp_path / "run")
    loaded = Decomposition.load(done.folder / "decomposition.safetensors", model.width)
    assert loaded.count == 3 and torch.equal(loaded.V, done.decomposition.V)
    page = (done.folder / "report.html").read_text()
    assert page.count('class="hist"') == 4 and page.count('class="thumb') == 4
    assert set(done.to_json()["scores"]) == set(SCORES)
    alone = decompose(model, done.decomposition, out=tmp_path / "merged")
    assert alone.table is None and (tmp_path / "merged/report.html").is_file()
    with pytest.raises(LongalignError, match="nothing is saved beside it"):
        decompose(model, TEXTS, name="stickers", save_beside=True, out=tmp_path / "beside")
    assert not (tmp_path / "beside").exists()
    decompose(model, TEXTS, name=str(tmp_path), save_beside=True, out=tmp_path / "beside")
    assert Decomposition.load(tmp_path / "decomposition.safetensors").count == 3


def test_bars_begin_at_the_zero_line() -> None:
    """Scores −10, 0 and 30 on a scale of 40: zero is at a quarter; the bars are 25, (a hair) and 75 % long."""
    low, zero, high = bars_of([-10.0, 0.0, 30.0], -10.0, 30.0)
    assert (low.left, low.width, low.zero) == (0.0, 25.0, 25.0)
    assert (zero.left, zero.width) == (25.0, 1.5)
    assert (high.left, high.width) == (25.0, 75.0)
    assert low.text == "−10.0"
    [positive] = bars_of([20.0], 20.0, 40.0)  # zero belongs to the scale
    assert (positive.left, positive.width, positive.zero) == (0.0, 50.0, 0.0)


def test_colours_are_verdicts_and_no_star_is_on_a_false_sentence() -> None:
    """The lowest sentence may be true, and the best picture may be wrong."""
    true, false = SegmentScore("a", 1.0, 0.9, verdict="true"), SegmentScore("b", 9.0, 0.1, verdict="false")
    assert [b.kind for b in bars_of([1.0, 9.0], 1.0, 9.0, segments=[true, false])] == ["true", "false"]
    assert [b.top for b in bars_of([1.0, 9.0], 1.0, 9.0, top=1, segments=[true, false])] == [False, False]
    assert [b.top for b in bars_of([1.0, 9.0], 1.0, 9.0, top=1)] == [False, True]
    assert [b.kind for b in bars_of([1.0], 1.0, 1.0)] == [""]
    assert style_of(true) != style_of(false) and style_of(SegmentScore("c", 1.0)) == ""


def test_bars_of_the_terminal_have_a_zero_line() -> None:
    """12 cells from −10 to 20: zero after 4 of them. 20 fills the other 8, −10 all 4, −5 the last 2."""
    assert bar(20.0, -10.0, 20.0) == "    │" + "█" * 8
    assert bar(-10.0, -10.0, 20.0) == "████│"
    assert bar(-5.0, -10.0, 20.0) == "  ██│"
    assert bar(0.0, -10.0, 20.0) == "    │▏"


def test_stopped_scores_are_kept(model: PreferenceModel, pairs: list[Pair], tmp_path: Path) -> None:
    """Ctrl-C after the second of five pairs: two are in the folder, with a page; without a folder that is said."""

    def stop(result: object) -> None:
        seen.append(result)
        if len(seen) == 2:
            raise KeyboardInterrupt

    seen: list[object] = []
    with pytest.raises(Interrupted, match=r"scores of 2 pairs are kept, with their report: .*report\.html"):
        score(pairs, ScoreConfig(), model=model, out=tmp_path / "run", on_result=stop)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "run" / "report.html").read_text().count("<article") == 2
    seen.clear()
    with pytest.raises(Interrupted, match="are lost: --out would keep them"):
        score(pairs, ScoreConfig(), model=model, on_result=stop)
