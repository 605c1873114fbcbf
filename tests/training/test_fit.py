"""The loop: what a step does, exact resumption, what may go wrong."""

from __future__ import annotations

import math
import resource
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import accelerate.utils
import pytest
import torch
import yaml
from line_objective import LineObjective, Points, line_recipe
from line_runs import NOISY, rows, same_end

from longalign.errors import LongalignError
from longalign.training import fit, plan, step
from longalign.training.batches import RowOrder
from longalign.training.checkpoint import newest_checkpoint, read_parts, read_state
from longalign.training.weights import learning_rate


def test_a_step_is_adamw_on_the_mean_gradient(tmp_path: Path) -> None:
    """One step on 4 rows as 2 micro-batches of 2. The gradient of the mean loss over the 4 rows is clipped to 0.3.

    AdamW's first step moves a weight by lr·g/(|g| + ε) after shrinking it by lr·decay; ε = 1 lets the clip be seen.
    """
    given = line_recipe(
        train__steps=1,
        train__eps=1.0,
        train__max_grad_norm=0.3,
        train__weight_decay=0.5,
        train__micro_batch_size=2,
    )
    accelerator = step.Accelerator(cpu=True)
    task, _ = step.build_task(given, accelerator)
    line = task.objective.modules()["line"]
    start = [p.detach().clone() for p in line.parameters()]
    x, y = task.objective.collate([Points(10)[i] for i in RowOrder(10, 4, 5).rows(0).tolist()])
    gradient = torch.autograd.grad(((line(x).squeeze(-1) - y) ** 2).mean(), list(line.parameters()))
    norm = torch.sqrt(sum((g**2).sum() for g in gradient))  # type: ignore[arg-type]
    assert norm > 0.3
    result = fit(given, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "model" / "line.pt", weights_only=True)
    for before, g, after in zip(start, gradient, saved.values(), strict=True):
        g = g * 0.3 / norm
        expected = before * (1 - 0.1 * 0.5) - 0.1 * g / (g.abs() + 1.0)
        assert torch.allclose(after, expected, rtol=1e-5, atol=1e-7)  # torch clips by norm + 1e-6
    assert result.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-9)


def test_training_brings_the_loss_down_and_the_run_folder_says_so(tmp_path: Path) -> None:
    out = tmp_path / "run"
    seen: list[int] = []
    result = fit(
        line_recipe(train__steps=300, train__log_every=50), out, on_step=lambda s, row: seen.append(s)
    )
    assert result.evaluation["loss"] < 1e-3 and result.step == 300 and result.stopped == ""
    assert seen == list(range(301))
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["command"] == "train" and config["train"]["weight_decay"] == 0.01
    log = rows(out)
    assert [(r["kind"], r["step"]) for r in log] == [("train", 50 * k) for k in range(1, 7)] + [
        ("evaluate", 300)
    ]
    assert log[0]["loss"] > log[-2]["loss"] and log[0]["samples"] == 200 and log[0]["rows"] == 2
    page = (out / "report.html").read_text()
    assert "300 of 300 steps" in page and "<polyline" in page and 'class="line c1"' in page


RESTARTS = {"train__schedule": "cosine_with_restarts", "train__restart_steps": 4, "train__min_lr": 0.01}


@pytest.mark.parametrize("schedule", [{}, {**RESTARTS, "train__lr_every": 2}])
@pytest.mark.parametrize("first", [1, 4, 5])
def test_interrupted_and_resumed_is_uninterrupted(
    tmp_path: Path, first: int, schedule: dict[str, Any]
) -> None:
    """Stop after `first` of 9 steps (in mid-window and mid-epoch too) and go on: the same weights, moments, average,
    objective state and lines of metrics (which have the learning rates), bit for bit, with dropout, a cosine once or
    with warm restarts, and a longer evaluation in between, which draws random numbers of its own.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    given = line_recipe(**{**NOISY, **schedule}, train__evaluate_every=3)
    fit(given, whole)

    def stop(done: int, row: Any) -> None:
        if done == first:
            signal.raise_signal(signal.SIGTERM)

    # The signal comes after the loop has looked for one in this step, so one more step is taken.
    broken_off = fit(given, parts, on_step=stop)
    assert (broken_off.stopped, broken_off.step, broken_off.model) == ("signal", first + 1, None)
    assert "the same command goes on" in (parts / "report.html").read_text()
    torch.rand(7)
    resumed = fit(given, parts)
    assert (resumed.resumed_from, resumed.step, resumed.stopped) == (first + 1, 9, "")
    assert same_end(whole, parts)
    assert rows(whole) == rows(parts)
    again = fit(given, parts)  # complete: nothing is trained or logged
    assert again.resumed_from == 9 and again.evaluation == resumed.evaluation and rows(whole) == rows(parts)


def test_fewer_steps_than_were_taken_are_refused(tmp_path: Path) -> None:
    """Not "9 of 5 steps". The run that is there stays as it was, and goes on with as many steps or more."""
    out = tmp_path / "run"
    fit(line_recipe(train__steps=9), out)
    before = rows(out)
    with pytest.raises(
        LongalignError, match=r"has taken 9 steps already, and train.steps is 5: set train.steps=9"
    ):
        fit(line_recipe(train__steps=5), out)
    assert rows(out) == before
    assert fit(line_recipe(train__steps=11), out).step == 11


def test_sigterm_ends_the_step_and_handlers_come_back(tmp_path: Path) -> None:
    """The signal comes in mid-step 2 (its first micro-batch is the fifth): that step is finished, then saved."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    result = fit(line_recipe(line__signal_at=4, train__steps=9), tmp_path / "run")
    assert (result.step, result.stopped) == (3, "signal")
    assert read_state(tmp_path / "run" / "checkpoints" / "step-00000003")["step"] == 3
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_in_a_thread_signals_are_left_alone(tmp_path: Path) -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(fit(line_recipe(), tmp_path / "run")))
    thread.start()
    thread.join()
    assert done[0].step == 6


def test_time_is_up(tmp_path: Path) -> None:
    result = fit(
        line_recipe(train__stop_after_s=0.05, train__steps=9),
        tmp_path / "run",
        on_step=lambda s, row: time.sleep(0.03),
    )
    assert result.stopped == "time" and 0 < result.step < 9
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is not None


def test_checkpoints_come_by_steps_and_the_last_ones_stay(tmp_path: Path) -> None:
    fit(line_recipe(train__checkpoint_every_steps=2, train__steps=7), tmp_path / "run")
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000007"]


def test_a_broken_checkpoint_is_left_out_for_the_one_before(tmp_path: Path) -> None:
    """Of the checkpoints at 6 and 9, the later one has a flipped bit, then half a state; the run goes on from 6 and
    ends as the undisturbed one. With both broken it starts anew, and ends the same again.
    """
    whole, out = tmp_path / "whole", tmp_path / "run"
    given = line_recipe(**NOISY, train__checkpoint_every_steps=3)
    fit(given, whole)
    fit(given, out)
    weights = out / "checkpoints" / "step-00000009" / "modules.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.warns(
        UserWarning, match=r"step-00000009 is broken \(modules.safetensors is not what was written\)"
    ):
        assert fit(given, out).resumed_from == 6
    assert same_end(whole, out)
    (out / "checkpoints" / "step-00000009" / "state.json").write_text('{"step": ')
    (out / "checkpoints" / "step-00000006" / "optimizer.safetensors").unlink()
    (out / "checkpoints" / ".step-00000012-half").mkdir()
    with pytest.warns(UserWarning, match="taking the one before"):
        assert fit(given, out).resumed_from is None
    assert same_end(whole, out) and rows(whole) == rows(out)


def test_steps_without_a_finite_gradient_are_skipped_and_counted(tmp_path: Path) -> None:
    """Micro-batches 2 (step 1) and 6, 7 (step 3) have NaN losses: steps 1 and 3 leave everything as it was but for the
    count, and the means leave them out, so the run is one of the same steps without updates there.
    """
    with pytest.warns(UserWarning) as warned:
        result = fit(line_recipe(line__sick=[2, 6, 7], train__log_every=1, train__ema=0.5), tmp_path / "run")
    assert [str(w.message).partition(":")[0] for w in warned] == ["step 1", "step 3"]
    assert result.skipped == 2 and result.step == 6
    log = [r for r in rows(tmp_path / "run") if r["kind"] == "train"]
    assert [r["skipped"] for r in log] == [0, 1, 1, 2, 2, 2]
    assert ["loss" in r for r in log] == [True, False, True, False, True, True]
    parts = read_parts(tmp_path / "run" / "checkpoints" / "step-00000006")
    assert all(t.isfinite().all() for part in parts.values() for t in part.values())
    assert parts["optimizer"]["line.weight::step"] == 4  # six steps, four updates
    assert "2 steps without a finite loss" in (tmp_path / "run" / "report.html").read_text()


def test_a_loss_that_is_not_finite_skips_the_step_whatever_its_gradient(tmp_path: Path) -> None:
    """Micro-batch 3 (step 1) says that its loss is infinite, and gives an ordinary gradient all the same."""
    with pytest.warns(UserWarning, match="step 1: loss or gradient is not finite"):
        result = fit(line_recipe(line__lost=[3], train__steps=3), tmp_path / "run")
    parts = read_parts(tmp_path / "run" / "checkpoints" / "step-00000003")
    assert result.skipped == 1 and parts["optimizer"]["line.weight::step"] == 2


def test_a_scaler_finds_its_range_before_steps_count_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 starts with a factor of 2^16 before the loss and halves it at every overflow, which is as it should be.
    Where every loss is NaN, 16 halvings bring it to 1 (steps 0 to 15), and the next five (16 to 20) are an error.
    """
    make = step.Accelerator

    def scaled(precision: str, **_: Any) -> Any:
        accelerator = make(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    monkeypatch.setattr("longalign.training.loop.make_accelerator", scaled)
    given = line_recipe(line__sick=list(range(99)), train__steps=50, train__micro_batch_size=None)
    with warnings.catch_warnings(), pytest.raises(LongalignError, match="5 steps in a row, up to step 20"):
        warnings.simplefilter("ignore")
        fit(given, tmp_path / "run")


def test_it_gives_up_when_every_gradient_is_sick(tmp_path: Path) -> None:
    """Steps 0 and 1 are well, 2 to 6 are not: the fifth in a row is an error, and there is a checkpoint from before."""
    given = line_recipe(
        line__sick=list(range(2, 99)),
        train__steps=50,
        train__micro_batch_size=None,
        train__checkpoint_every_steps=2,
    )
    with warnings.catch_warnings(), pytest.raises(LongalignError, match="5 steps in a row, up to step 6"):
        warnings.simplefilter("ignore")
        fit(given, tmp_path / "run")
    found = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None and math.isfinite(float(read_parts(found)["modules"]["line.bias"]))


def test_another_recipe_is_refused_but_more_steps_are_not(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(line_recipe(), out)
    with pytest.raises(LongalignError, match=r"differ in line\.dropout, train\.lr\. Choose another"):
        fit(line_recipe(train__lr=0.2, line__dropout=0.1), out)
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["train"]["compile"]  # as if made before there was such a key
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    longer = fit(line_recipe(train__steps=8, train__keep_checkpoints=1), out)
    assert (longer.resumed_from, longer.step) == (6, 8)
    straight = fit(line_recipe(train__steps=8), tmp_path / "straight")
    assert same_end(out, straight.folder)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(LongalignError, match="no training run made them"):
        fit(line_recipe(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(LongalignError, match="is a file"):
        fit(line_recipe(), tmp_path / "letter.txt")


def test_a_run_that_could_not_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="there is no 'lion'"):
        fit(line_recipe(model="lion"), tmp_path / "run")
    with pytest.raises(LongalignError, match="nothing is trainable"):
        fit(line_recipe(line__freeze=True), tmp_path / "run")
    with pytest.raises(LongalignError, match="no row"):
        fit(line_recipe(data__rows=0), tmp_path / "other")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """No file may grow past 300 bytes from step 4 on; the optimiser's state is larger. Step 2's checkpoint stays, and
    the run goes on from it when there is room again.
    """
    given = line_recipe(train__checkpoint_every_steps=2, train__log_every=99)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(done: int, row: Any) -> None:
        if done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))

    try:
        with pytest.raises(LongalignError, match=r"Cannot write the checkpoint .*step-00000004"):
            fit(given, tmp_path / "run", on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert fit(given, tmp_path / "run").resumed_from == 2


def test_the_average_is_what_is_judged_and_saved(tmp_path: Path) -> None:
    """With decay min(0.9, (1+k)/(10+k)) after the k-th update: θ̄₁ = θ₀ + (1 − 2/11)(θ₁ − θ₀) after the first."""
    fit(line_recipe(train__steps=1, train__ema=0.9), tmp_path / "run")
    parts = read_parts(tmp_path / "run" / "checkpoints" / "step-00000001")
    _, weights = step.build_task(line_recipe(), step.Accelerator(cpu=True))
    start, after = weights.parameters["line.bias"].detach(), parts["modules"]["line.bias"]
    saved = torch.load(tmp_path / "run" / "model" / "line.pt", weights_only=True)["bias"]
    assert torch.allclose(saved, start + 9 / 11 * (after - start)) and not torch.allclose(saved, after)
    assert torch.equal(saved, parts["ema"]["line.bias"])


def test_learning_rates() -> None:
    """2 steps of warm-up, then 4: constant 1; linear 1, ¾, ½, ¼; cosine (1 + cos kπ/4)/2; all times lr = 0.1.

    With a floor of 0.2 · lr, ¾ becomes 0.2 + 0.8 · ¾ = 0.8; with a change every 2 steps, each second value stays.
    """

    def course(schedule: str, **train: Any) -> list[float]:
        settings = {f"train__{name}": value for name, value in train.items()}
        read = line_recipe(train__schedule=schedule, train__warmup_steps=2, **settings).train
        return [10 * learning_rate(k, read) for k in range(6)]

    assert course("constant") == pytest.approx([0.5, 1, 1, 1, 1, 1])
    assert course("linear") == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    assert course("cosine") == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447], rel=1e-5)
    assert course("linear", min_lr=0.02) == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4])
    assert course("linear", lr_every=2) == pytest.approx([0.5, 1, 1, 1, 0.5, 0.5])


def test_warm_restarts_are_those_of_torch() -> None:
    """SoftREPA's: 10 validations of 500 steps from peak to peak, a change at each; torch's scheduler moves there, too.

    By hand: lr at step 0 and 499, 1e-5 + 0.99e-3 · (1 + cos(9π/10))/2 = 3.423e-5 at 4,999, and lr again at 5,000.
    """
    settings = {"schedule": "cosine_with_restarts", "restart_steps": 5000, "min_lr": 1e-5, "lr_every": 500}
    train = line_recipe(**{f"train__{k}": v for k, v in settings.items()}, train__lr=1e-3).train
    assert [learning_rate(k, train) for k in (0, 499, 4999, 5000)] == pytest.approx(
        [1e-3, 1e-3, 3.42270e-5, 1e-3], rel=1e-5
    )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, eta_min=1e-5)
    for validation in range(25):
        here = [learning_rate(500 * validation + k, train) for k in (0, 1, 499)]
        assert here == pytest.approx(scheduler.get_last_lr() * 3, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_scaler_changes_nothing_but_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16's loss scaling, here without fp16: losses are multiplied by 2^16 and gradients divided by it, exactly."""
    fit(line_recipe(), tmp_path / "plain")
    make = step.Accelerator

    def scaled(precision: str, **_: Any) -> Any:
        accelerator = make(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    monkeypatch.setattr("longalign.training.loop.make_accelerator", scaled)
    result = fit(line_recipe(line__sick=[]), tmp_path / "scaled")
    assert same_end(tmp_path / "plain", tmp_path / "scaled")
    assert read_state(tmp_path / "scaled" / "checkpoints" / "step-00000006")["scaler"]["scale"] == 2.0**16
    assert result.skipped == 0


def test_precision_and_tracker_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(LongalignError, match=r"train\.precision fp16: .*take bf16 or no"):
            fit(line_recipe(train__precision="fp16"), tmp_path / "run")
    monkeypatch.setattr(accelerate.utils, "is_tensorboard_available", lambda: False)
    with pytest.raises(LongalignError, match="pip install tensorboard"):
        fit(line_recipe(train__tracker="tensorboard"), tmp_path / "run")


def test_bf16_computes_in_bf16_and_keeps_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-precision weights become float32, and a matrix product of the objective gives bfloat16 within the loop."""
    kinds: set[torch.dtype] = set()
    plain = LineObjective.backward

    def backward(self: Any, batch: Any, accelerator: Any) -> Any:
        kinds.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        kinds.add(self.unused.weight.dtype)
        return plain(self, batch, accelerator)

    monkeypatch.setattr(LineObjective, "backward", backward)
    built = LineObjective.__init__

    def half(self: Any, *arguments: Any) -> None:
        built(self, *arguments)
        self.unused.half()

    monkeypatch.setattr(LineObjective, "__init__", half)
    fit(line_recipe(train__precision="bf16", train__steps=1), tmp_path / "run")
    assert kinds == {torch.bfloat16, torch.float32}


def test_a_plan_counts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`line` has 3 + 1 float64 parameters and `unused` 4 + 2: 80 bytes, as much in gradients, twice that in moments."""
    monkeypatch.chdir(tmp_path)
    made = plan(line_recipe(train__ema=0.9, train__steps=5))
    assert made.modules == {"line": (4, 4), "unused": (6, 6), "drop": (0, 0)}
    assert (made.weights_bytes, made.gradients_bytes, made.optimizer_bytes, made.average_bytes) == (
        80,
        80,
        160,
        80,
    )
    assert made.batching.accumulation == 2 and made.epochs == 2.0 and (made.rows, made.steps) == (10, 5)
    assert made.total_s == pytest.approx(5 * made.step_s) and made.step_s > 0 and made.peak_bytes > 0
    assert list(tmp_path.iterdir()) == []


class Affine(torch.nn.Linear):
    """A layer of our own: torch leaves its own ones, taken alone, uncompiled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


def test_compiling_keeps_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled by a backend that runs the graph as it is: the weights of an ordinary run, under the same names."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain, built = torch.compile, LineObjective.__init__

    def with_affine(self: Any, *arguments: Any) -> None:
        built(self, *arguments)
        self.line.__class__ = Affine

    monkeypatch.setattr(LineObjective, "__init__", with_affine)
    monkeypatch.setattr(torch, "compile", lambda function: plain(function, backend=backend))
    fit(line_recipe(train__steps=2, train__compile=True), tmp_path / "compiled")
    assert graphs
    fit(line_recipe(train__steps=2), tmp_path / "plain")
    assert same_end(tmp_path / "plain", tmp_path / "compiled")
