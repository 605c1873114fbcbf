"""Models of any kind in one evaluation, and where they look for words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tiny_pipelines
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from tiny import tiny_sd15

from longalign.errors import LongalignError
from longalign.evaluation.attention import check_words, write_attention
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.settings import EvaluateConfig
from longalign.metrics import METRICS
from longalign.metrics.metric import Metric, MetricColumn, PictureBatch
from longalign.runs import RunFolder


class Side(Metric):
    """The width of the picture."""

    name = "side"
    columns = (MetricColumn("side", "side", ".0f", "higher"),)

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        return [image.width for image in batch.images]


@pytest.fixture(autouse=True)
def side() -> Iterator[None]:
    METRICS["side"] = Side
    yield
    METRICS.pop("side")


def prompts(path: Path) -> str:
    path.write_text("a red cat sits on the house\na dog\n")
    return str(path)


def test_a_pipeline_that_longalign_does_not_know_beside_one_that_it_does(tmp_path: Path) -> None:
    """PixArt as it is published, with an argument of its own call, and a sticker model. Each has its own size."""
    tiny_pipelines.tiny_pixart().save_pretrained(tmp_path / "pixart")
    config = EvaluateConfig("side", prompts=prompts(tmp_path / "p.txt"), samples=50, device="cpu", seed=3)
    names = [f"any={tmp_path / 'pixart'},steps=2,use_resolution_binning=false", "ours=stickers,steps=1"]
    job = EvaluationJob(names, config)
    run = RunFolder(tmp_path / "out", {"command": "evaluate", **job.settings})
    found = job.run(run)
    assert [r.values["side"] for r in found.runs] == [32, 96]
    with Image.open(run.path / "pictures/any/00001-3.png") as image:
        told = json.loads(image.text["longalign"])  # type: ignore[attr-defined]
    assert (told["prompt"], told["seed"], told["steps"]) == ("a dog", 3, 2)
    with pytest.raises(LongalignError, match=r"no argument 'strenth'"):
        wrong = EvaluationJob([f"any={tmp_path / 'pixart'},strenth=2"], config)
        wrong.draw(RunFolder(tmp_path / "wrong", {}))
    with pytest.raises(LongalignError, match=r"no prompt has any of the words cat.*no backbone"):
        write_attention(job.plans()[:1], ["cat"], run)


def test_a_pipeline_that_needs_what_nobody_gave(tmp_path: Path) -> None:
    """One that changes a picture is no text-to-image model."""
    parts = tiny_sd15().components
    StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False).save_pretrained(
        tmp_path / "img2img"
    )
    config = EvaluateConfig("side", prompts=prompts(tmp_path / "p.txt"), samples=50, device="cpu")
    for more in ("", ",strategy=plain"):
        job = EvaluationJob([f"a={tmp_path / 'img2img'}{more}"], config)
        with pytest.raises(LongalignError, match="Img2ImgPipeline needs image, which nobody gave"):
            job.draw(RunFolder(tmp_path / f"out{more}", {}))


@pytest.mark.parametrize("model", ["stickers", "stickers-sd3"])
def test_where_a_model_looks_for_a_word(tmp_path: Path, model: str) -> None:
    """A page with a picture for each prompt that has the word; words that nothing has are refused at once."""
    config = EvaluateConfig(
        "side", prompts=prompts(tmp_path / "p.txt"), samples=50, device="cpu", drawing={"steps": 1}
    )
    job = EvaluationJob([model], config)
    page = write_attention(job.plans(), ["dog", "red"], RunFolder(tmp_path / "out", {})).read_text()
    assert page.count("data:image/png") == 2 and "“dog”" in page and "“red”" in page
    check_words(job.points, ["zebra", "dog"])
    with pytest.raises(LongalignError, match=r"no prompt has any of the words zebra, do$"):
        check_words(job.points, ["zebra", "do"])
    with pytest.raises(LongalignError, match="name a model"):
        check_words([], ["dog"])
