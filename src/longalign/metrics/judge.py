"""Judge: which of two pictures fits a prompt better, asked of a vision-language model (LongAlign, App. D).

Each pair is asked about in both orders; where the two answers disagree, it is a tie. The model is behind an
OpenAI-compatible endpoint, or local. Every answer is kept at once in a file, so an interrupted run that is started
again asks nothing twice. A pair without an answer is left out, with the reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from longalign.data.vision_language import VisionLanguageModel
from longalign.errors import LongalignError
from longalign.metrics.judge_client import Answer, Budget, ChatEndpoint, NoAnswer
from longalign.metrics.vlm import filled

TEMPLATE = (
    "{prompt}\nWhich image is more consistent with the above prompt? Please respond with "
    '"first", "second" or "tie", no explanation needed.'
)
SYSTEM = "You are an image generation evaluation expert."
UNUSABLE = 2  # answers that are none of the three words, after which a question has failed
_IN_A_ROW = 3  # pairs that find nobody, after which no further one is asked about
Choice = Literal["first", "second", "tie"]
_SWAPPED: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_CHOICE = re.compile(r"\W*(?:the |a )?(first|second|tie)(?: image| picture| one)?\W*")


@dataclass(frozen=True)
class JudgeOptions:
    """Options of `Judge`.

    Attributes:
        model: its name at the endpoint; without ``base_url`` a folder or hub name of a local image-text-to-text model.
        base_url: of an OpenAI-compatible endpoint, such as ``https://api.openai.com/v1``; None: the model is local.
        key_from: the environment variable that holds the endpoint's key; None: the endpoint wants none.
        template: the question; ``{prompt}`` is the prompt.
        system: the system message; empty: none. A local model is not given one.
        temperature: None: the endpoint's own.
        max_tokens: of an answer; None: the endpoint's own, and 16 for a local model.
        timeout_s: of one request.
        tries: of one question, where the endpoint is busy, broken or not reached.
        wait_s: before the second try; doubled each time. The endpoint's ``Retry-After`` comes first.
        most_wait_s: before one try.
        workers: requests at once.
        max_requests: cap on requests, with those whose answers the file of answers holds; None: any number.
        max_cost: cap on costs, in the currency of the prices, also with those; None: any.
        price_in, price_out: of a million tokens.
    """

    model: str | None = None
    base_url: str | None = None
    key_from: str | None = None
    template: str = TEMPLATE
    system: str = SYSTEM
    temperature: float | None = None
    max_tokens: int | None = None
    timeout_s: float = 60.0
    tries: int = 5
    wait_s: float = 1.0
    most_wait_s: float = 60.0
    workers: int = 4
    max_requests: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass(frozen=True)
class JudgeItem:
    """Two pictures of one prompt.

    Attributes:
        prompt: the text.
        first, second: the pictures, or their files.
    """

    prompt: str
    first: Path | Image.Image
    second: Path | Image.Image


@dataclass(frozen=True)
class Judgement:
    """What was found of a pair.

    Attributes:
        winner: ``first``, ``second`` or ``tie``; None where there is no answer.
        answers: in the order of the pair and in the other order, both as seen in the order of the pair; None where a
            question has no answer or was not asked.
        reason: why there is no winner; empty otherwise.
    """

    winner: Choice | None
    answers: tuple[Choice | None, Choice | None] = (None, None)
    reason: str = ""


@dataclass
class JudgeSummary:
    """What a judge has done so far.

    Attributes:
        asked: questions that were sent; retries are not counted.
        cached: questions whose answers were in the file.
        requests: sent to the endpoint, with retries, also by earlier runs as far as their answers are in the file.
        pairs: pairs judged.
        failed: pairs without a winner.
        reasons: why, and how often.
        cost: of all answers in the file, earlier runs' too; NaN where the endpoint counts no tokens.
    """

    asked: int = 0
    cached: int = 0
    requests: int = 0
    pairs: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0


class Judge:
    """Asks which of two pictures fits a prompt better.

    Args:
        options: model, endpoint, template and caps.
        cache: the file of answers (JSONL), which grows; several evaluations may share it.
        sleep: waits between tries; None: as `ChatEndpoint` does.
        local: asks in place of the endpoint or the local model: question and the bytes of two pictures → answer.
        device, dtype: of a local model, as in `longalign.runtime`.

    Raises:
        LongalignError: no model is given, the key's variable is not set, the address is none, the template has no
            ``{prompt}``, a cap on costs without prices; the local model cannot be loaded; the file cannot be read.
    """

    def __init__(
        self,
        options: JudgeOptions,
        cache: str | os.PathLike[str],
        *,
        sleep: Callable[[float], Any] | None = None,
        local: Callable[[str, Sequence[bytes]], Answer] | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        if options.model is None:
            raise LongalignError(
                "judge: no model is given: --set judge.model=NAME, with --set judge.base_url=ADDRESS of an "
                "OpenAI-compatible endpoint, or the folder or hub name of a local vision-language model"
            )
        if options.max_cost is not None and not (options.price_in or options.price_out):
            raise LongalignError(
                "judge: max_cost needs prices: set price_in and price_out (of a million tokens)"
            )
        if min(options.tries, options.workers) < 1 or options.timeout_s <= 0:
            raise LongalignError("judge: tries and workers must be at least 1, and timeout_s above 0")
        filled(options.template, "judge", prompt="")
        self.options = options
        self.budget = Budget(options.max_requests, options.max_cost, options.price_in, options.price_out)
        self._stop: Callable[[], None] = lambda: None
        self._workers = 1
        if local is not None:
            self._ask = local
        elif options.base_url is None:
            model = VisionLanguageModel.from_pretrained(options.model, device=device, dtype=dtype)
            self._ask = _Local(model, options.max_tokens or 16)
        else:
            further = {"temperature": options.temperature, "max_tokens": options.max_tokens}
            endpoint = ChatEndpoint(
                options.base_url,
                options.model,
                key=_key(options.key_from),
                system=options.system,
                budget=self.budget,
                timeout_s=options.timeout_s,
                tries=options.tries,
                wait_s=options.wait_s,
                most_wait_s=options.most_wait_s,
                further={k: v for k, v in further.items() if v is not None},
                sleep=sleep,
            )
            self._ask, self._workers, self._stop = endpoint, options.workers, endpoint.stopped.set
        self._known = _Answers(Path(cache), self.budget)
        self._summary = JudgeSummary()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._nobody, self._closed = 0, ""

    @property
    def what(self) -> str:
        """Names the model, where it is, and the template."""
        where = f" at {self.options.base_url}" if self.options.base_url else ""
        return f"judge by {self.options.model}{where}, both orders, template {self.options.template!r}"

    @property
    def summary(self) -> JudgeSummary:
        """What was done so far."""
        self._summary.requests = self.budget.requests
        self._summary.cost = math.nan if self.budget.cost_is_unknown else self.budget.cost
        return self._summary

    def compare(
        self, items: Iterable[JudgeItem], on_step: Callable[[int], None] = lambda pairs: None
    ) -> list[Judgement]:
        """Judge pairs. What goes wrong with a pair leaves this pair out, and is counted with its reason.

        Args:
            items: the pairs; they are taken a few at a time.
            on_step: called with 1 after each pair.

        Returns:
            a judgement a pair, in order.
        """
        found: list[Judgement] = []
        waiting: deque[Future[Judgement]] = deque()

        def take() -> None:
            found.append(waiting.popleft().result())
            self._summary.pairs += 1
            if found[-1].winner is None:
                self._summary.failed += 1
                self._summary.reasons[found[-1].reason] += 1
            on_step(1)

        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(self._pair, item))
                    if len(waiting) >= 2 * self._workers:
                        take()
                while waiting:
                    take()
            except BaseException:
                self._closed = "interrupted"
                self._stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _pair(self, item: JudgeItem) -> Judgement:
        try:
            pictures = [_bytes_of(picture) for picture in (item.first, item.second)]
        except (OSError, ValueError) as error:
            return Judgement(None, reason=f"a picture cannot be read: {error}")
        if pictures[0] == pictures[1]:
            return Judgement("tie", ("tie", "tie"))
        text = filled(self.options.template, "judge", prompt=item.prompt)
        try:
            first = self._choice(text, item.prompt, pictures)
        except NoAnswer as error:
            return Judgement(None, reason=error.reason)
        try:
            second = _SWAPPED[self._choice(text, item.prompt, pictures[::-1])]
        except NoAnswer as error:
            return Judgement(None, (first, None), error.reason)
        return Judgement(first if first == second else "tie", (first, second))

    def _choice(self, text: str, prompt: str, pictures: Sequence[bytes]) -> Choice:
        """The answer in the order of the pictures, from the file or from the model."""
        shown = [hashlib.sha256(picture).hexdigest() for picture in pictures]
        # The pictures stand in the key in the order in which they are shown.
        parts = [self.options.model, self.options.system, self.options.template, prompt, *shown]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        with self._lock:
            mine = self._locks.setdefault(key, threading.Lock())
        with mine:  # the same pair twice in one run is asked about once
            known = self._known.choices.get(key)
            if known is not None or self._known.unusable[key] >= UNUSABLE:
                with self._lock:
                    self._summary.cached += 1
            while known is None and self._known.unusable[key] < UNUSABLE:
                known = self._known.add(key, self._answer(text, pictures))
            if known is None:
                raise NoAnswer('the answer is none of "first", "second" and "tie"')
            return known

    def _answer(self, text: str, pictures: Sequence[bytes]) -> Answer:
        if self._closed:
            raise NoAnswer(self._closed)
        try:
            answer = self._ask(text, pictures)
        except LongalignError as error:  # of a local model
            raise NoAnswer(str(error)) from None
        except NoAnswer as error:
            with self._lock:
                if error.final:
                    self._closed = self._closed or error.reason
                elif not error.reached:
                    self._nobody += 1
                    if self._nobody >= _IN_A_ROW:
                        self._closed = (
                            self._closed or f"not asked: {self._nobody} times in a row {error.reason}"
                        )
            raise
        with self._lock:
            self._nobody = 0
            self._summary.asked += 1
        return answer


class _Answers:
    """The file of answers: one line an answer, written at once, and never changed."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path, self.budget = path, budget
        self.choices: dict[str, Choice] = {}
        self.unusable: Counter[str] = Counter()
        self._lock = threading.Lock()
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        except OSError as error:
            raise LongalignError(f"judge: {path}: cannot be read: {error.strerror}") from None
        self._torn = lines[-1] != b""
        for line in lines:
            try:
                row = json.loads(line)
                key, text = row["key"], row["text"]
                answer = Answer(text, row["tokens_in"], row["tokens_out"])
                choice = choice_in(text)
            except (ValueError, KeyError, TypeError):  # torn by a kill, or of something else
                continue
            self._count(key, choice)
            budget.requests += 1
            budget.add(answer)

    def _count(self, key: str, choice: Choice | None) -> None:
        if choice is None:
            self.unusable[key] += 1
        else:
            self.choices[key] = choice

    def add(self, key: str, answer: Answer) -> Choice | None:
        """Writes an answer and says which choice it is, if it is one."""
        row = {
            "key": key,
            "text": answer.text,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }
        choice = choice_in(answer.text)
        with self._lock:
            line = json.dumps(row).encode() + b"\n"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "ab") as file:
                    file.write(b"\n" + line if self._torn else line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                reason = f"the file of answers cannot be written: {self.path}: {error.strerror}"
                raise NoAnswer(reason, final=True) from None
            self._torn = False
            self._count(key, choice)
        return choice


class _Local:
    """A local model in place of an endpoint."""

    def __init__(self, model: VisionLanguageModel, max_tokens: int) -> None:
        self.model, self.max_tokens = model, max_tokens

    def __call__(self, text: str, pictures: Sequence[bytes]) -> Answer:
        try:
            images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
        except (OSError, ValueError) as error:
            raise NoAnswer(f"a picture cannot be read: {error}", reached=True) from None
        return Answer(self.model.write([(text, *images)], self.max_tokens)[0], 0, 0)


def choice_in(text: str | None) -> Choice | None:
    """The choice that an answer is; None where it is prose.

    Quotes, marks, case, and "the … image" around the word do not matter, nor does what a model thinks before.

    Args:
        text: what the model wrote; None: nothing.
    """
    found = _CHOICE.fullmatch(_THOUGHTS.sub("", text or "").strip().lower())
    return None if found is None else cast("Choice", found[1])


def _bytes_of(picture: Path | Image.Image) -> bytes:
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.convert("RGB").save(file, "png")
        return file.getvalue()
    return Path(picture).read_bytes()


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable, "").strip()):
        raise LongalignError(
            f"judge: the environment variable {variable!r}, which key_from names, is not set"
        )
    return key
