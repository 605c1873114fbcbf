"""Models and folders on the same prompts: drawn, measured, interrupted, split into shards and joined again."""

from __future__ import annotations

import json
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chat_server import Server, said
from PIL import Image
from sticker_runs import run_folder
from two_processes import two

from longalign.cli.evaluate import evaluate as command
from longalign.errors import LongalignError
from longalign.evaluation.contenders import read_contenders
from longalign.evaluation.estimate import estimated, spoken
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.memory import plan_passes
from longalign.evaluation.merging import merge_shards
from longalign.evaluation.on_engine import DrawWork, MeasureWork
from longalign.evaluation.parts import FolderParts
from longalign.evaluation.processes import Shard
from longalign.evaluation.report import write_evaluation
from longalign.evaluation.settings import EvaluateConfig
from longalign.runs import RunFolder
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene

CONFIG = EvaluateConfig(
    "oracle,denscore,fid,looks",
    prompts="stickers:6:objects=1-3",
    batch_size=2,
    samples=100,
    device="cpu",
    drawing={"steps": 1},
)
RUNS = ["plain=stickers,strategy=plain", "segments=stickers,strategy=clip-cat"]


def evaluated(out: Path, config: EvaluateConfig = CONFIG, runs: list[str] | None = None) -> RunFolder:
    """What the command does, without printing."""
    job = EvaluationJob(runs or RUNS, config)
    run = RunFolder.resume(out, {"command": "evaluate", **job.settings}, free=("drawing",))
    write_evaluation(job.run(run), run)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing disturbed: 6 prompts, 2 models, 3 blocks."""
    return evaluated(tmp_path_factory.mktemp("whole")).path


def test_models_draw_the_same_prompts_and_are_measured(whole: Path) -> None:
    """6 prompts × 2 models: 12 lines in the order of prompts with their values, and 12 pictures with a prompt."""
    rows = [json.loads(line) for line in (whole / "results.jsonl").read_text().splitlines()]
    assert [(r["id"], r["run"]) for r in rows[:4]] == [
        ("00000", "plain"),
        ("00000", "segments"),
        ("00001", "plain"),
        ("00001", "segments"),
    ]
    assert len(rows) == 12 and all(0 <= row["oracle"]["true"] <= 1 for row in rows)
    assert len(rows[0]["denscore"]["sentences"]) == len(rows[0]["oracle"]["marks"])
    pictures = sorted((whole / "pictures").rglob("*.png"))
    assert len(pictures) == 12 and pictures[0].name == "00000-0.png"
    with Image.open(pictures[0]) as image:
        assert json.loads(image.text["longalign"])["prompt"] == rows[0]["prompt"]  # type: ignore[attr-defined]
    page = (whole / "report.html").read_text()
    assert page.count("data:image/png") == 12 and "true sentences" in page and "<script" not in page
    assert (whole / "table.csv").read_text().startswith(",pictures,")
    assert "\\begin{tabular}" in (whole / "table.tex").read_text()


def test_shards_joined_equal_one_run(whole: Path, tmp_path: Path) -> None:
    """Three blocks in two shards: blocks 0 and 2, and block 1; results and table are the same to the byte."""
    folders = []
    for index in range(2):
        shard = Shard(index, 2)
        job = EvaluationJob(RUNS, CONFIG)
        run = RunFolder.resume(tmp_path / f"shard-{index}", {"command": "evaluate", **job.settings})
        job.draw(run, shard)
        job.measure(job.all_sets(run), FolderParts(run.path / "parts"), shard)
        folders.append(run.path)
    assert len(list((folders[1] / "pictures").rglob("*.png"))) == 4
    names, config = merge_shards(folders, tmp_path / "joined")
    joined = evaluated(tmp_path / "joined", config, names).path
    for name in ("results.jsonl", "table.csv", "table.tex"):
        assert (joined / name).read_bytes() == (whole / name).read_bytes(), name
    other = EvaluationJob(RUNS, EvaluateConfig("oracle", prompts="stickers:5", drawing={"steps": 1}))
    RunFolder(tmp_path / "other", {"command": "evaluate", **other.settings})
    with pytest.raises(LongalignError, match="no shards of one evaluation; they differ in metrics"):
        merge_shards([folders[0], tmp_path / "other"], tmp_path / "never")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_job_settings import CONFIG, RUNS
from longalign.evaluation.evaluate import EvaluationJob
from longalign.runs import RunFolder

left = [int(sys.argv[2])]
def step(pictures):
    left[0] -= pictures
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

job = EvaluationJob(RUNS, CONFIG)
run = RunFolder.resume(Path(sys.argv[1]), {{"command": "evaluate", **job.settings}})
job.run(run, step)
"""


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """SIGKILL after some pictures of 12 drawn and 12 measured, twice; the third run ends with the same results."""
    settings = (
        f"from longalign.evaluation.settings import EvaluateConfig\nCONFIG = {CONFIG!r}\nRUNS = {RUNS!r}\n"
    )
    (tmp_path / "test_job_settings.py").write_text(settings)
    (tmp_path / "killed.py").write_text(KILLED.format(path=[str(tmp_path)]))
    out = tmp_path / "out"
    for pictures in (random.Random(0).randint(1, 10), 17):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "killed.py"), str(out), str(pictures)], check=False, timeout=300
        )
        assert done.returncode == -signal.SIGKILL
    assert evaluated(out).path == out
    assert (out / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


@pytest.mark.slow
def test_two_processes_equal_one(whole: Path, tmp_path: Path) -> None:
    """As `accelerate launch` starts them: blocks 0 and 2, and block 1; the first process writes."""
    two(
        *("-m", "longalign", "evaluate", *RUNS, "--prompts", "stickers:6:objects=1-3", "--batch-size", "2"),
        *(
            "--set",
            "steps=1",
            "--metrics",
            "oracle,denscore,fid,looks",
            "--samples",
            "100",
            "--device",
            "cpu",
        ),
        *("--out", str(tmp_path / "both")),
    )
    for name in ("results.jsonl", "table.csv"):
        assert (tmp_path / "both" / name).read_bytes() == (whole / name).read_bytes()


def test_processes_wait_for_each_other() -> None:
    """The second process comes half a second later; the first one has to wait for it. (Once nobody waited.)"""
    code = (
        "import os, time; from longalign.evaluation.processes import wait_for_all; wait_for_all(); "
        "time.sleep(0.5 * int(os.environ['RANK'])); t = time.time(); wait_for_all(); print(time.time() - t)"
    )
    first, _ = two("-c", code)
    assert float(first) > 0.3


def test_another_metric_is_added_without_drawing_again(whole: Path, tmp_path: Path) -> None:
    """The new metric has a pass of its own; what was measured before stays as it was, to the bit."""
    import shutil

    out = tmp_path / "more"
    shutil.copytree(whole, out)
    before = {f: f.stat().st_mtime_ns for f in (out / "pictures").rglob("*.png")}
    from dataclasses import replace

    job = EvaluationJob(RUNS, replace(CONFIG, metrics="oracle,denscore,counting"))
    run = RunFolder.resume(out, {"command": "evaluate", **job.settings}, free=("metrics",))
    found = job.run(run)
    assert {f: f.stat().st_mtime_ns for f in (out / "pictures").rglob("*.png")} == before
    assert [m.name for m in found.runs[0].metrics] == ["oracle", "denscore", "counting"]
    assert [p.metrics for p in found.passes] == [["oracle", "denscore", "fid", "looks"], ["counting"]]
    with pytest.raises(LongalignError, match="they differ in seed"):
        other = EvaluationJob(RUNS, replace(CONFIG, seed=1))
        RunFolder.resume(out, {"command": "evaluate", **other.settings}, free=("metrics",))


def test_a_sweep_of_lengths_cuts_prompts_at_sentences(tmp_path: Path) -> None:
    """Table 6's rule: whole sentences up to 15 tokens; the first one always stays. A curve with a point a length."""
    config = EvaluateConfig(
        "oracle",
        prompts="stickers:2:objects=4-5",
        sweep="length=15,60",
        samples=50,
        device="cpu",
        drawing={"steps": 1},
    )
    job = EvaluationJob(["stickers"], config)
    run = RunFolder(tmp_path / "swept", {"command": "evaluate", **job.settings})
    found = job.run(run)
    assert [m.label for m in found.runs] == ["stickers · 15 tokens", "stickers · 60 tokens"]
    short, long = (m.pictures[0].text for m in found.runs)
    assert long.startswith(short) and short.endswith(".") and len(short) < len(long)
    write_evaluation(found, run)
    assert "prompt length (CLIP tokens at most)" in (run.path / "report.html").read_text()


def pictures_named(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        render(scene(k, objects=(2, 3), split="test")).save(folder / name)
    return folder


def prompt_file(path: Path, ids: list[str]) -> Path:
    rows = [
        {"item_id": i, "prompt": text_of(caption(scene(k, objects=(2, 3), split="test"), k))}
        for k, i in enumerate(ids)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pictures_named_after_prompts(tmp_path: Path) -> None:
    """DPG-Bench's and GenEval's layouts: ``ID.png``, ``ID/samples/0.png``. A prompt without a picture is counted."""
    prompts = prompt_file(tmp_path / "p.jsonl", ["a", "b", "c"])
    flat = pictures_named(tmp_path / "flat", ["a.png", "b.png"])
    deep = pictures_named(tmp_path / "deep", ["a/samples/0.png", "b/samples/0.png", "c/samples/0.png"])
    config = EvaluateConfig("oracle", prompts=str(prompts), samples=50)
    found = EvaluationJob([str(flat), str(deep)], config).run()
    assert [m.values["true"] for m in found.runs] == [1, 1]
    assert found.runs[0].missing == ["c"] and found.runs[1].missing == []
    assert found.facts["prompts without a picture"] == "flat: 1"
    pictures_named(tmp_path / "twice", ["a.png", "A/a.jpg"])
    with pytest.raises(LongalignError, match="both the picture of prompt 'a'"):
        EvaluationJob([str(tmp_path / "twice")], config)
    pictures_named(tmp_path / "strange", ["x.png"])
    with pytest.raises(LongalignError, match="none of its 1 pictures is named after a prompt"):
        EvaluationJob([str(tmp_path / "strange")], config)


def test_black_pictures_are_told_apart(tmp_path: Path) -> None:
    """A safety checker's black picture says nothing of the model: it is left out and named."""
    prompts = prompt_file(tmp_path / "p.jsonl", ["a", "b"])
    folder = pictures_named(tmp_path / "f", ["a.png", "b.png"])
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(folder / "b.png")
    found = EvaluationJob([str(folder)], EvaluateConfig("oracle", prompts=str(prompts))).run()
    assert [f.name for f in found.runs[0].failed] == ["b.png"] and "safety checker" in found.facts["left out"]
    assert found.runs[0].values["true"] == 1


def test_what_is_wrong_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    prompts = prompt_file(tmp_path / "twice.jsonl", ["a", "a"])
    for names, config, message in (
        (["stickers"], EvaluateConfig(), "a model needs prompts to draw"),
        (["runs/nowhere"], EvaluateConfig(), "no such run folder"),
        (["stickers"], EvaluateConfig(prompts=str(prompts)), "'a' stands in"),
        (["stickers", "stickers"], EvaluateConfig(prompts="stickers:1"), "two runs are called"),
        (["a=stickers,strategie=plain"], EvaluateConfig(prompts="stickers:1"), "did you mean 'strategy'"),
        (
            ["stickers"],
            EvaluateConfig(prompts="stickers:1", options={"orcale.x": 1}),
            "did you mean 'oracle'",
        ),
        (["stickers"], EvaluateConfig(prompts="stickers:1", sweep="lenght=3"), "did you mean 'length'"),
        (["stickers"], EvaluateConfig(prompts="stickers:1", sweep="steps=a"), "must be numbers"),
        (["a b=stickers", "a-b=stickers"], EvaluateConfig(prompts="stickers:1"), "one folder name"),
    ):
        with pytest.raises(LongalignError, match=message):
            job = EvaluationJob(names, config)
            job.contenders[0].config()


def test_one_line_for_each_metric_that_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """hpsv2 needs a file: it is named with what to do, and the other metrics go on."""
    prompts = prompt_file(tmp_path / "p.jsonl", ["a", "b"])
    folder = pictures_named(tmp_path / "f", ["a.png", "b.png"])
    command(
        [str(folder)],
        metrics="hpsv2,oracle",
        prompts=str(prompts),
        samples=50,
        device="cpu",
        out=tmp_path / "out",
        as_json=True,
    )
    out, err = capsys.readouterr()
    assert "longalign: hpsv2 was not computed" in err and "--set hpsv2." in err
    assert json.loads(out)["runs"][0]["true"]["value"] == 1
    assert "hpsv2" in json.loads(out)["not computed"]


def test_a_forecast_is_measured_on_the_first_block() -> None:
    """6 prompts in blocks of 2: one block is drawn, and the rest is reckoned from it."""
    found = estimated(EvaluationJob(RUNS, CONFIG))
    assert [s.name for s in found.steps] == ["drawing plain", "drawing segments", "measuring"]
    assert [s.pictures for s in found.steps] == [6, 6, 12]
    assert found.total_s >= max(s.total_s for s in found.steps) > 0 and found.peak_bytes > 1 << 27
    assert [row[0] for row in found.table().rows][-1] == "in all"
    assert (spoken(3900), spoken(700), spoken(20)) == ("1 h 05 min", "12 min", "20 s")


def test_passes_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 4 bytes each, 10 free, of which 7 may be used: a and b share one model; c has to wait."""
    monkeypatch.setattr("longalign.evaluation.memory.model_bytes", lambda name: 4)
    weights = {"a": ["X"], "b": ["X"], "c": ["Y"], "d": []}
    passes = plan_passes(["a", "b", "c", "d"], weights, with_features=True, free=10)
    assert [p.metrics for p in passes] == [["a", "b"], ["c", "d"]]
    assert [p.with_features for p in passes] == [True, False]
    assert [p.metrics for p in plan_passes(["a", "b", "c", "d"], weights, free=100)] == [["a", "b", "c", "d"]]


def test_columns_of_a_demo_are_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run folder with two columns: each is a run. The plain embedded CLIP is the extractor."""
    run = run_folder(tmp_path / "demo", {"reference": [0, 1, 2], "plain": [2, 2, 2]})
    command(
        [f"d={run}"],
        metrics="fid,cmmd,oracle,diversity,looks",
        show=2,
        samples=100,
        device="cpu",
        out=tmp_path / "out",
        as_json=True,
    )
    printed = json.loads(capsys.readouterr().out)
    right, plain = printed["runs"]
    assert right["run"] == "d · reference" and right["true"]["value"] == 1 and right["fid"]["value"] < 1e-6
    assert plain["fid"]["value"] > right["fid"]["value"] and plain["true"]["value"] < 0.8
    assert "stickers/clip" in printed["features"] and "low" not in plain["fid"] and "low" in plain["true"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "stickers/clip" in page and "true sentences" in page


def test_settings_on_the_command_line() -> None:
    [one] = read_contenders(["tuned=stickers,lora=stickers/sft,lora=stickers/reward,guidance=3,steps=4"])
    assert one.config().loras == ("stickers/sft", "stickers/reward")
    assert (one.config().guidance, one.config().steps) == (3.0, 4)
    names = [c.label for c in read_contenders(["stickers", "stickers,lora=stickers/sft", "stickers,steps=4"])]
    assert names == ["stickers", "stickers stickers/sft", "stickers 4"]
    with pytest.raises(LongalignError, match=r"did you mean 'stickers-table[26]'"):
        read_contenders(["stickers-table3"])
    with pytest.raises(LongalignError, match="takes no settings"):
        read_contenders([f"a={Path(__file__).parent},steps=4"])


def test_a_judge_compares_runs_and_is_asked_nothing_twice(tmp_path: Path) -> None:
    """Two prompts, two orders: four questions. It always says "first", so both answers disagree: two ties, half a win.
    The same command again asks nothing. An endpoint that is not there leaves the other metrics alone."""
    prompts = prompt_file(tmp_path / "p.jsonl", ["a", "b"])
    right = pictures_named(tmp_path / "right", ["a.png", "b.png"])
    moved = pictures_named(tmp_path / "moved", ["b.png", "a.png"])
    server = Server()
    server.reply = lambda number: said("first")
    options = {"judge.base_url": server.url, "judge.model": "any", "judge.workers": 1}
    config = EvaluateConfig("oracle,judge", prompts=str(prompts), samples=50, options=options)
    for _ in range(2):
        job = EvaluationJob([str(right), str(moved)], config)
        found = job.judge(job.run(), tmp_path)
        assert found.judged is not None and found.judged.to_json["runs"] == {"moved": {"tie": 2}}
        assert str(found.judged.table.rows[0][1]) == "50.0%"
    assert len(server.asked) == 4
    server.close()
    gone = dict(options, **{"judge.base_url": "http://127.0.0.1:9/v1", "judge.tries": 1})
    job = EvaluationJob(
        [str(right), str(moved)],
        EvaluateConfig("oracle,judge", prompts=str(prompts), samples=50, options=gone),
    )
    found = job.judge(job.run(), tmp_path / "gone")
    assert found.runs[0].values["true"] == 1
    assert found.judged is not None and found.judged.to_json["runs"] == {"moved": {"failed": 2}}
    with pytest.raises(LongalignError, match="judge: name a model"):
        EvaluationJob([str(right)], EvaluateConfig("judge", prompts=str(prompts)))


def test_blocks_are_work_that_can_be_sent(whole: Path, tmp_path: Path) -> None:
    """Drawn and measured by works that went through pickle, blocks from the last to the first: equal to the byte.

    There are 2 × 3 blocks to draw, and 3 to measure.
    """
    job = EvaluationJob(RUNS, CONFIG)
    run = RunFolder.resume(tmp_path, {"command": "evaluate", **job.settings})
    passes = job.plan(FolderParts(tmp_path / "parts"))
    for work, blocks in [
        (DrawWork(job, tmp_path), 6),
        *((MeasureWork(job, tmp_path, of), 3) for of in passes),
    ]:
        sent = pickle.loads(pickle.dumps(work))
        assert sent.blocks == blocks and not sent.has(0)
        sent.open()
        for block in reversed(range(blocks)):
            assert sent.do(block) > 0 and work.has(block)
    write_evaluation(job.run(run), run)
    assert (tmp_path / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
