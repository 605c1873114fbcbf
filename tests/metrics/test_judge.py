"""The judge against a real HTTP server, which answers, is slow, breaks, limits and writes prose."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, Server, red_of, said
from PIL import Image
from tiny_vlm import save_llava

from longalign.errors import LongalignError
from longalign.metrics.judge import Judge, JudgeItem, JudgeOptions, choice_in
from longalign.metrics.judge_client import Answer, Budget, NoAnswer, data_url, read_answer, retry_after


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    yield made
    made.close()


def pairs(count: int = 1) -> list[JudgeItem]:
    """The first picture of pair k has red 2k, the second 2k + 1."""
    grey = [Image.new("RGB", (4, 4), (k, 0, 0)) for k in range(2 * count)]
    return [JudgeItem(f"prompt {k}", grey[2 * k], grey[2 * k + 1]) for k in range(count)]


class Judging:
    """Judges by a server; keeps the waits."""

    def __init__(self, server: Server, cache: Path, **options: Any) -> None:
        self.waits: list[float] = []
        told = JudgeOptions(model="gpt", base_url=server.url, workers=1, tries=3, timeout_s=5.0)
        self.judge = Judge(replace(told, **options), cache, sleep=self.waits.append)

    def winners(self, items: Sequence[JudgeItem]) -> list[str | None]:
        return [found.winner for found in self.judge.compare(items)]


def test_a_pair_is_asked_about_in_both_orders(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model likes the redder picture: it says "second", then "first". That is twice the second picture."""
    server.reply = lambda number: said(
        "first" if server.shown(number)[0] > server.shown(number)[1] else '"Second".'
    )
    monkeypatch.setenv("A_KEY", "secret")
    judging = Judging(server, tmp_path / "answers.jsonl", key_from="A_KEY", temperature=0.0)
    steps: list[int] = []
    (found,) = judging.judge.compare(pairs(), steps.append)
    assert (found.winner, found.answers, found.reason, steps) == ("second", ("second", "second"), "", [1])
    assert [server.shown(k) for k in range(2)] == [[0, 1], [1, 0]]
    body = server.asked[0]
    assert (body["model"], body["temperature"], server.headers[0]) == ("gpt", 0.0, "Bearer secret")
    assert body["messages"][0]["role"] == "system" and "max_tokens" not in body
    text = body["messages"][1]["content"][0]["text"]
    assert text.startswith("prompt 0\nWhich image is more consistent") and text.endswith(
        "no explanation needed."
    )
    summary = judging.judge.summary
    assert (summary.asked, summary.cached, summary.requests, summary.pairs, summary.failed) == (2, 0, 2, 1, 0)
    assert "judge by gpt at http://127" in judging.judge.what and "secret" not in judging.judge.what


def test_disagreement_is_a_tie(server: Server, tmp_path: Path) -> None:
    """The model always says "first": the first picture, then the second one."""
    (found,) = Judging(server, tmp_path / "a").judge.compare(pairs())
    assert (found.winner, found.answers) == ("tie", ("first", "second"))
    same = Image.new("RGB", (4, 4))
    assert Judging(server, tmp_path / "b").winners([JudgeItem("p", same, same.copy())]) == ["tie"]
    assert len(server.asked) == 2, "the same picture twice needs no question"


def test_files_are_sent_as_they_are(server: Server, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (4, 4), "red" if name == "a.jpg" else "blue").save(tmp_path / name)
    item = JudgeItem("p", tmp_path / "a.jpg", tmp_path / "b.png")
    judging = Judging(server, tmp_path / "answers")
    assert judging.winners([item, JudgeItem("p", tmp_path / "none.png", tmp_path / "b.png")]) == ["tie", None]
    urls = [part["image_url"]["url"] for part in server.asked[0]["messages"][-1]["content"][1:]]
    assert urls[0] == data_url((tmp_path / "a.jpg").read_bytes()) and urls[0].startswith(
        "data:image/jpeg;base64,"
    )
    assert urls[1].startswith("data:image/png;base64,")
    assert "a picture cannot be read" in next(iter(judging.judge.summary.reasons))


def test_waits_double_until_it_answers(server: Server, tmp_path: Path) -> None:
    """500 twice, then an answer: waits of 1 and 2 s, each a quarter more or less."""
    server.reply = lambda number: (500, "broken", {}) if number < 2 else said("tie")
    judging = Judging(server, tmp_path / "a")
    assert judging.winners(pairs()) == ["tie"]
    assert 0.75 <= judging.waits[0] <= 1.25 and 1.5 <= judging.waits[1] <= 2.5 and len(judging.waits) == 2
    assert judging.judge.summary.requests == 4


def test_the_endpoint_says_how_long_to_wait(server: Server, tmp_path: Path) -> None:
    replies = [(429, "", {"Retry-After": "7"}), (429, "", {"Retry-After": "3600"})]
    server.reply = lambda number: replies[number] if number < 2 else said("tie")
    judging = Judging(server, tmp_path / "a", most_wait_s=60.0)
    assert judging.winners(pairs()) == ["tie"]
    assert judging.waits == [7, 60]
    soon = datetime.now(timezone.utc) + timedelta(seconds=30)
    assert 25 < (retry_after(format_datetime(soon, usegmt=True)) or 0) < 31
    assert retry_after("soon") is None and retry_after("-3") == 0 and retry_after("nan") is None


def test_an_endpoint_that_is_slow(server: Server, tmp_path: Path) -> None:
    """Each request takes longer than the timeout: two tries, then the pair is left out."""
    server.wait_s = 0.3
    judging = Judging(server, tmp_path / "a", timeout_s=0.05, tries=2)
    (found,) = judging.judge.compare(pairs())
    assert found.winner is None and found.reason == "no answer within 0.05 s (2 tries)"
    assert len(judging.waits) == 1


def test_nobody_is_there(tmp_path: Path, server: Server) -> None:
    """After three pairs without anybody, the others are not asked about. Nothing is kept as an answer."""
    server.close()
    judging = Judging(server, tmp_path / "a", tries=2)
    found = judging.judge.compare(pairs(5))
    assert [f.winner for f in found] == [None] * 5
    assert "not reached" in found[0].reason and found[4].reason.startswith(
        "not asked: 3 times in a row not reached"
    )
    assert len(judging.waits) == 3 and judging.judge.summary.failed == 5 and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "reply", [(200, "{oops", {}), (200, '{"choices": []}', {}), said("I like the first one more.")]
)
def test_what_is_no_answer_is_asked_once_more(server: Server, tmp_path: Path, reply: Reply) -> None:
    """Then it is a failure, which is kept: the next run does not ask again. The other pair goes on."""
    server.reply = lambda number: reply if "prompt 0" in str(server.asked[number]) else said("tie")
    judging = Judging(server, tmp_path / "a")
    found = judging.judge.compare(pairs(2))
    assert [f.winner for f in found] == [None, "tie"] and "none of" in found[0].reason
    assert len(server.asked) == 4 and judging.waits == []
    assert Judging(server, tmp_path / "a").winners(pairs(2)) == [None, "tie"]
    assert len(server.asked) == 4
    server.reply = lambda number: reply if number == 4 else said("tie")
    assert Judging(server, tmp_path / "b").winners(pairs()) == ["tie"], "the second time it answers"


def test_refusals(server: Server, tmp_path: Path) -> None:
    """A picture that is refused costs this pair alone; a wrong key ends the questions."""
    refused = json.dumps({"error": {"message": "content filter"}})
    server.reply = lambda number: (400, refused, {}) if number < 3 else said("tie")
    judging = Judging(server, tmp_path / "a")
    found = judging.judge.compare(pairs(4))
    assert [f.winner for f in found] == [None, None, None, "tie"]
    assert found[0].reason == "the endpoint answers 400 Bad Request: content filter"
    before = len(server.asked)
    server.reply = lambda number: (401, "", {})
    found = Judging(server, tmp_path / "b").judge.compare(pairs(4))
    assert {f.reason for f in found} == {"the endpoint answers 401 Unauthorized"}
    assert len(server.asked) == before + 1


def test_a_cap_on_requests(server: Server, tmp_path: Path) -> None:
    """Four of six questions, also over two runs that share the file of answers."""
    judging = Judging(server, tmp_path / "a", max_requests=4)
    assert judging.winners(pairs(3)) == ["tie", "tie", None]
    assert "out of budget: 4 requests" in next(iter(judging.judge.summary.reasons))
    assert Judging(server, tmp_path / "a", max_requests=5).winners(pairs(3)) == ["tie", "tie", None]
    assert len(server.asked) == 5
    assert Judging(server, tmp_path / "a", max_requests=6).winners(pairs(3)) == ["tie"] * 3
    assert len(server.asked) == 6


@pytest.mark.parametrize("workers", [1, 4])
def test_a_cap_on_costs(server: Server, tmp_path: Path, workers: int) -> None:
    """A question costs 100 · 10/10⁶ + 1 · 1000/10⁶ = 0.002. For 0.007 there are three of them, never four."""
    judging = Judging(
        server, tmp_path / "a", max_cost=0.007, price_in=10.0, price_out=1000.0, workers=workers
    )
    winners = judging.winners(pairs(4))
    assert len(server.asked) == 3 and judging.judge.summary.cost == pytest.approx(0.006)
    assert winners.count(None) >= 3 and judging.judge.summary.failed == winners.count(None)
    server.reply = lambda number: said("tie", None)
    blind = Judging(server, tmp_path / "b", max_cost=1.0, price_in=1.0)
    assert blind.winners(pairs(2)) == [None, None] and len(server.asked) == 4
    assert "set max_requests" in next(iter(blind.judge.summary.reasons))


def test_an_interrupted_run_asks_nothing_twice(server: Server, tmp_path: Path) -> None:
    """Stopped after two of six pairs; the last line is torn. Then all six: each of twelve questions was asked once.

    The question whose line was torn is the exception: its answer is lost.
    """
    server.reply = lambda number: said("first" if server.shown(number)[0] % 2 else "second")

    class Stop(Exception):
        pass

    def stop(pairs: int, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(pairs)
        if len(seen) == 2:
            raise Stop

    cache = tmp_path / "deep" / "answers.jsonl"
    with pytest.raises(Stop):
        Judging(server, cache, workers=2).judge.compare(pairs(6), stop)
    done = len(cache.read_bytes().splitlines())
    assert 4 <= done <= 12 and done == len(server.asked)
    judging = Judging(server, cache, workers=2)
    assert judging.winners(pairs(6)) == ["second"] * 6
    assert len(server.asked) == 12 and judging.judge.summary.cached == done
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-5])
    assert Judging(server, cache).winners(pairs(6)) == ["second"] * 6
    assert len(server.asked) == 13 and len(cache.read_bytes().splitlines()) == 13
    swapped = [JudgeItem(i.prompt, i.second, i.first) for i in pairs(6)]
    assert Judging(server, cache).winners(swapped) == ["first"] * 6, (
        "the other way round nothing is asked either"
    )
    assert len(server.asked) == 13
    assert Judging(server, cache, template="{prompt}?").winners(pairs(1)) == ["second"]
    assert len(server.asked) == 15, "another template is another question"
    assert Judging(server, cache, model="other").winners(pairs(1)) == ["second"]
    assert len(server.asked) == 17, "and so is another model"


def test_several_questions_at_once(server: Server, tmp_path: Path) -> None:
    """Sixteen questions of 50 ms by eight threads, and a pair that comes twice is asked about once."""
    server.wait_s = 0.05
    judging = Judging(server, tmp_path / "a", workers=8)
    start = time.monotonic()
    assert judging.winners([*pairs(8), *pairs(1)]) == ["tie"] * 9
    assert time.monotonic() - start < 0.6 and len(server.asked) == 16
    assert judging.judge.summary.cached == 2


def test_a_local_model(tmp_path: Path) -> None:
    """A tiny random model writes prose: the pair is left out, and the reason says so."""
    options = JudgeOptions(model=str(save_llava(tmp_path / "llava")), max_tokens=2)
    judge = Judge(options, tmp_path / "a", device="cpu")
    (found,) = judge.compare(pairs())
    assert found.winner is None and "none of" in found.reason
    assert len((tmp_path / "a").read_bytes().splitlines()) == 2

    def says(text: str, pictures: Sequence[bytes]) -> Answer:
        return Answer("first" if red_of(pictures[0]) else "second", 0, 0)

    assert [f.winner for f in Judge(options, tmp_path / "b", local=says).compare(pairs())] == ["second"]


def test_choices_and_prose() -> None:
    for text, choice in (
        ("first", "first"), (' "Second"\n', "second"), ("Tie.", "tie"), ("The first image.", "first"),
        ("<think>The second is worse.</think> first", "first"), ("**tie**", "tie"), ("first or second", None),
        ("The first image is better because of the fox.", None), ("", None), (None, None), ("firstly", None),
    ):  # fmt: skip
        assert choice_in(text) == choice, text
    assert read_answer(
        b'{"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": "7"}}'
    ) == Answer(None)


def test_a_budget_counts_what_is_on_its_way() -> None:
    """A request costs 4: of a cap of 10, 4 are spent and 4 on their way, so a third request would make 12."""
    budget = Budget(max_cost=10.0, price_in=1e6)
    budget.begin()
    budget.end(Answer("tie", 4, 0))
    budget.begin()
    with pytest.raises(NoAnswer, match="out of budget: 4 of 10"):
        budget.begin()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (JudgeOptions(), "no model is given"),
        (JudgeOptions(model="m", base_url="file:///etc"), "begins with http"),
        (
            JudgeOptions(model="m", base_url="http://x", key_from="NO_SUCH_KEY"),
            "'NO_SUCH_KEY', which key_from names",
        ),
        (JudgeOptions(model="m", base_url="http://x", max_cost=1.0), "max_cost needs prices"),
        (JudgeOptions(model="m", base_url="http://x", template="Which?"), "no place {prompt}"),
        (JudgeOptions(model="m", base_url="http://x", tries=0), "at least 1"),
        (JudgeOptions(model="stickers"), "does not read pictures"),
    ],
)
def test_options_that_are_wrong(tmp_path: Path, options: JudgeOptions, told: str) -> None:
    with pytest.raises(LongalignError, match=told):
        Judge(options, tmp_path / "a")
