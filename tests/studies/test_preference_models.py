"""Identification and localisation, on models of which it is known what they look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from longalign.encoding.segments import Segment, Segmenter
from longalign.errors import LongalignError
from longalign.preference.decomposition import Decomposition
from longalign.stickers.captions import Fact, is_true, parse
from longalign.stickers.oracle import read
from longalign.studies import identification, localisation
from longalign.studies.identification import identify
from longalign.studies.localisation import localise, lowest_is_false
from longalign.studies.renders import kind_of_lie, known_render, one_false

V = Decomposition(torch.eye(3, dtype=torch.float64)[0], 1)


def test_a_known_render_is_what_it_says() -> None:
    """Truth is the share of the prompt's sentences that hold of what is drawn; the same keys give the same render."""
    truths, strengths = [], []
    for i in range(40):
        one = known_render(i)
        held = [is_true(s.fact, one.shown) for s in one.said]
        assert one.truth == pytest.approx(sum(held) / len(held)) and one.looks == -one.strength
        assert np.array_equal(one.pixels(), known_render(i).pixels())
        truths.append(one.truth)
        strengths.append(one.strength)
    assert len({s.text for s in known_render(3).said} ^ {s.text for s in known_render(3, 1).said}) == 0
    assert known_render(3).noise_seed != known_render(3, 1).noise_seed
    assert min(truths) < 0.5 and max(truths) > 0.8 and np.std(strengths) > 0.2


def test_exactly_one_sentence_is_false() -> None:
    """By the scene, and by what its text says; all four kinds of lie occur."""
    kinds = set()
    for i in range(60):
        one = one_false(i)
        assert [k for k, s in enumerate(one.said) if not is_true(s.fact, one.shown)] == [one.false]
        assert parse(one.said[one.false].text) == one.said[one.false].fact
        assert 3 <= len(one.said) <= 10
        kinds.add(one.kind)
    assert kinds == set(localisation.KINDS)
    assert kind_of_lie(Fact("fox", 0, "red"), Fact("fox", 0, "blue")) == "disc"
    assert kind_of_lie(Fact("fox", 0, "red"), Fact("fox", 1, "red")) == "position"


class _Seeing:
    """Reads pictures with the oracle: its embedding holds a value for every sentence asked about.

    Sentence k has axis k; a picture has +1 there if the sentence is true of it, else −1, and Gaussian noise.
    """

    decomposition: Decomposition | None

    def __init__(self, texts: Sequence[str], deviation: float = 0.0, blind: bool = False) -> None:
        self.axis = {text: k for k, text in enumerate(dict.fromkeys(texts))}
        self.facts = [parse(text) for text in self.axis]
        self.decomposition = Decomposition(torch.ones(len(self.axis), dtype=torch.float64), 1)
        self.rng = np.random.default_rng(0)
        self.deviation, self.blind = deviation, blind

    def image(self, pixels: Tensor) -> Tensor:
        rows = []
        for picture in (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy():
            reading = read(Image.fromarray(picture))
            seen = [
                0.0 if self.blind else (1.0 if reading.judge(f) == "true" else -1.0) for f in self.facts if f
            ]
            rows.append(np.array(seen) + self.deviation * self.rng.normal(size=len(seen)))
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def text(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        return torch.eye(len(self.axis))[[self.axis[text] for text in texts]]

    def segments(self, text: str) -> list[Segment]:
        return Segmenter("sentence")(text)


def test_one_who_knows_finds_every_lie_and_one_who_guesses_finds_chance() -> None:
    """60 renders of 2 stickers, 3 sentences: 100 % and, guessing, 1/3 ± 4 standard errors of 6 %."""
    texts = [s.text for i in range(60) for s in one_false(i, objects=(2, 2)).said]
    models = {"knows": _Seeing(texts), "guesses": _Seeing(texts, 1.0, blind=True)}
    found = localise(models, 60, objects=(2, 2), others=8, v_prompts=[])
    assert found.estimates("knows")[0].value == 1 and found.estimates("knows")[1].value == 1
    assert abs(found.estimates("guesses")[0].value - 1 / 3) < 0.25
    assert found.chance().value == pytest.approx(1 / 3)
    shown = found.tables()
    assert [t.caption.split()[0] for t in shown] == ["The", "By", "By"]
    assert len(shown[1].rows) == 2 and shown[1].rows[0][0] == "knows · 3 sentences"
    assert sum(e.n for row in shown[2].rows[: len(shown[2].rows) // 2] for e in row[1:2]) == 60  # type: ignore
    json.dumps(found.to_json(), allow_nan=False)


def test_lowest_by_hand_and_ties_are_misses() -> None:
    """Captions of 3 and 2 sentences. Column 0: 0.1 is the lowest of three, and 0.5 ties with 0.5. Column 1: both found
    the other way round."""
    scores = np.array([[0.3, 0.0], [0.1, 0.1], [0.2, 0.2], [0.5, 0.4], [0.5, 0.3]])
    asked: list[Any] = [SimpleNamespace(said=[0] * 3, false=1), SimpleNamespace(said=[0] * 2, false=1)]
    assert lowest_is_false(scores, asked).tolist() == [[True, False], [False, True]]


def test_calibration_takes_the_level_of_a_sentence_away() -> None:
    """Sentence 0 scores 0.9 on any picture and 0.5 on this one; sentence 1 scores 0.1 and 0.2.

    As they stand 1 is the lower; less their means it is 0 (−0.4 against +0.1).
    """
    c_p = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = localisation._scores(
        torch.tensor([[0.5, 0.2]]), torch.tensor([0.9, 0.1]), c_p, c_p, np.array([2])
    )
    asked: list[Any] = [SimpleNamespace(said=[0, 0], false=0)]
    assert lowest_is_false(scores, asked).tolist() == [[False, False, True, True]]


class _TwoFactors:
    """Knows every render: C_X = (looks, truth, 0), with noise; every sentence is (0.6, 0.8, 0), V is the first axis.

    So C_X·V is looks and C_X·C⊥ is 0.8 · truth. With ``swapped``, the reverse.
    """

    decomposition = V

    def __init__(self, swapped: bool = False) -> None:
        self.rng = np.random.default_rng(0)
        self.swapped = swapped

    def image(self, pixels: Tensor) -> Tensor:
        known = pixels[:, 0, 0, :2].double().numpy() + 0.05 * self.rng.normal(size=(len(pixels), 2))
        known = known[:, ::-1] if self.swapped else known
        return torch.tensor(np.column_stack([known, np.zeros(len(known))]), dtype=torch.float32)

    def text(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        return torch.tensor([[0.6, 0.8, 0.0]]).expand(len(texts), 3)

    def segments(self, text: str) -> list[Segment]:
        return Segmenter("sentence")(text)


def test_identification_of_two_known_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that carry their looks and truth as pixels: the claim holds, and of the swapped model it does not."""

    def picture(self: Any, i: int) -> Tensor:
        pixels = torch.zeros(3, 1, 2)
        pixels[0, 0] = torch.tensor([self.looks[i], self.truth[i]])
        return pixels

    monkeypatch.setattr(identification._Study, "picture", picture)
    models = {"right": _TwoFactors(), "swapped": _TwoFactors(swapped=True)}
    steps: list[int] = []
    found = identify(models, 100, versions=5, v_prompts=[], samples=200, on_step=steps.append)
    for part in (found.between, found.within):
        right = part["right"]
        assert right.correlations[0].value > 0.9 and right.correlations[1].value > 0.9
        assert all(abs(e.value) < 0.35 for e in right.correlations[2:])
        assert right.verdict == "holds" and part["swapped"].verdict == "does not hold"
    assert sum(steps) == identification.identification_steps(2, 100, 5) == 400
    margin = found.between["right"].margin
    four = [e.value for e in found.between["right"].correlations]
    assert margin.value == pytest.approx(min(four[:2]) - max(abs(four[2]), abs(four[3])))
    assert len(found.tables()) == 3 and len(found.tables()[0].rows[0]) == 9
    json.dumps(found.to_json(), allow_nan=False)


def test_what_the_studies_refuse() -> None:
    for call in (lambda: identify({}), lambda: localise({})):
        with pytest.raises(LongalignError, match="no model"):
            call()
    with pytest.raises(LongalignError, match="at least 10 renders"):
        identify({"m": _TwoFactors()}, 5)
    with pytest.raises(LongalignError, match="needs renders"):
        localise({"m": _TwoFactors()}, 0)


@pytest.mark.parametrize("command", ["retrieve", "identify", "localise"])
def test_the_commands_on_the_embedded_model(command: str, tmp_path: Path) -> None:
    """End to end with the sticker CLIP: exit code, JSON, run folder with a report."""
    from longalign.cli.main import app

    arguments = {
        "retrieve": ["retrieve", "--scenes", "12", "--sentences", "1,2"],
        "identify": ["stickers", "identify", "--renders", "12", "--versions", "3"],
        "localise": ["stickers", "localise", "--renders", "8"],
    }[command]
    out = tmp_path / "run"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A fox is in the top left. The background is navy.\nA pig is in the middle.\n")
    done = CliRunner().invoke(
        app,
        [*arguments, "--model", "stickers/clip", "--v-prompts", str(prompts), "--out", str(out), "--json"],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    result = json.loads(done.stdout)
    assert result["report"] == str(out / "report.html") and "<svg" in (out / "report.html").read_text()
    if command == "retrieve":
        assert len(result["cells"]) == 2 * 2 * 2 * 3 + 2 and result["n"] == 12
        assert [c["verdict"] for c in result["claims"]] == ["not tested"] * 3
    assert (out / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieve", "--sentences", "1,two"], "--sentences are numbers from 1 on"),
        (
            ["retrieve", "--segment-trained", "denscore", "--model", "stickers/clip"],
            "no model is called 'denscore'",
        ),
        (["retrieve", "--search", "hnsw"], "search 'hnsw' is unknown"),
        (["retrieve", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["stickers", "identify", "--objects", "5-2"], "objects must be a range"),
        (["stickers", "localise", "--out", "."], "already holds files"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longalign.cli.main import app

    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, LongalignError) and message in str(done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
