"""Questions to an OpenAI-compatible chat endpoint: retries with growing waits, and a cap on requests and costs."""

from __future__ import annotations

import http.client
import json
import math
import random
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from longalign.errors import LongalignError

_MOST_BYTES = 16 << 20  # of an answer
_AGAIN = frozenset((408, 425, 429))  # and all from 500 on
_NOBODY_CAN = frozenset((401, 402, 403, 404, 405))  # the next question would be refused, too
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


class NoAnswer(Exception):
    """A question without an answer.

    Args:
        reason: in words.
        final: whether further questions would have none either.
        reached: whether somebody refused this one question, as a filter of contents does.
    """

    def __init__(self, reason: str, final: bool = False, reached: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.final, self.reached = reason, final, reached


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: what the model wrote; None where the response held no text.
        tokens_in, tokens_out: as the endpoint counts them; None where it does not.
    """

    text: str | None
    tokens_in: int | None = None
    tokens_out: int | None = None


class Budget:
    """Counts requests and their costs, of several threads, and stops them before a cap is passed.

    A request is refused where it could pass the cap on costs, if it costs as much as the dearest one so far and so do
    all that are on their way.

    Args:
        max_requests: None: any number. Retries count.
        max_cost: in the currency of the prices; None: any.
        price_in, price_out: of a million tokens.

    Attributes:
        requests: sent so far.
        cost: so far.
    """

    def __init__(
        self,
        max_requests: int | None = None,
        max_cost: float | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        self.max_requests, self.max_cost = max_requests, max_cost
        self.price_in, self.price_out = price_in, price_out
        self.requests, self.cost = 0, 0.0
        self._on_their_way, self._dearest, self._unknown = 0, 0.0, False
        self._changed = threading.Condition()

    @property
    def cost_is_unknown(self) -> bool:
        """Whether an answer came without its number of tokens."""
        return self._unknown

    def cost_of(self, answer: Answer) -> float:
        """The price of an answer; NaN where the endpoint counts no tokens.

        Args:
            answer: with its tokens.
        """
        if answer.tokens_in is None or answer.tokens_out is None:
            return math.nan
        return (answer.tokens_in * self.price_in + answer.tokens_out * self.price_out) / 1e6

    def begin(self) -> None:
        """Before a request.

        Raises:
            NoAnswer: there is no budget for it.
        """
        with self._changed:
            # Nobody knows what a request costs before the first answer is there: until then, one at a time.
            while (
                self.max_cost is not None and not self._dearest and self._on_their_way and not self._unknown
            ):
                self._changed.wait()
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise NoAnswer(f"out of budget: {self.max_requests} requests (max_requests)", final=True)
            if self.max_cost is not None:
                if self._unknown:
                    raise NoAnswer(
                        "the endpoint counts no tokens, so max_cost cannot be kept: set max_requests",
                        final=True,
                    )
                if (
                    self.cost + (self._on_their_way + 1) * self._dearest > self.max_cost
                    or self.cost >= self.max_cost
                ):
                    raise NoAnswer(
                        f"out of budget: {self.cost:.4g} of {self.max_cost:g} spent (max_cost)", final=True
                    )
            self.requests += 1
            self._on_their_way += 1

    def end(self, answer: Answer | None) -> None:
        """After a request.

        Args:
            answer: None: it failed and cost nothing.
        """
        with self._changed:
            self._on_their_way -= 1
            if answer is not None:
                self.add(answer)
            self._changed.notify_all()

    def add(self, answer: Answer) -> None:
        """Adds the cost of an answer, also of one that an earlier run has paid.

        Args:
            answer: with its tokens.
        """
        cost = self.cost_of(answer)
        if math.isnan(cost):
            self._unknown = True
        else:
            self.cost += cost
            self._dearest = max(self._dearest, cost)


class ChatEndpoint:
    """An OpenAI-compatible chat endpoint.

    Args:
        base_url: such as ``https://api.openai.com/v1``.
        model: its name there.
        key: sent as bearer token; None: none is sent.
        system: the first message; empty: none.
        budget: counts requests.
        timeout_s: of one request, as a whole.
        tries: of one question, where the endpoint is busy, broken or not reached.
        wait_s: before the second try; doubled each time.
        most_wait_s: before one try, also where the endpoint asks for more.
        further: more fields of the request, such as ``temperature``.
        sleep: waits; None: until the time is over or ``stopped`` is set.

    Attributes:
        stopped: once set, no further request is sent.

    Raises:
        LongalignError: the address is none of http or https.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None = None,
        system: str = "",
        budget: Budget | None = None,
        timeout_s: float = 60.0,
        tries: int = 5,
        wait_s: float = 1.0,
        most_wait_s: float = 60.0,
        further: dict[str, Any] | None = None,
        sleep: Callable[[float], Any] | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise LongalignError(
                f"judge: base_url {base_url!r} is no address: it begins with http:// or https://"
            )
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model, self.key, self.system = model, key, system
        self.budget = budget or Budget()
        self.timeout_s, self.tries, self.wait_s, self.most_wait_s = timeout_s, tries, wait_s, most_wait_s
        self.further = further or {}
        self.stopped = threading.Event()
        self.sleep = sleep or self.stopped.wait

    def __call__(self, text: str, pictures: Sequence[bytes]) -> Answer:
        """Ask one question.

        Args:
            text: the question.
            pictures: the bytes of picture files.

        Raises:
            NoAnswer: the endpoint is out of reach or refuses after all tries, or the budget is spent.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures]
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": content}]
        body = json.dumps({"model": self.model, "messages": messages, **self.further}).encode()
        reason = ""
        for number in range(self.tries):
            if self.stopped.is_set():
                raise NoAnswer("interrupted", final=True)
            self.budget.begin()
            answer: Answer | None = None
            asked_to_wait: float | None = None
            try:
                answer = read_answer(self._send(body))
                return answer
            except urllib.error.HTTPError as error:
                reason = f"the endpoint answers {error.code} {error.reason}{_said(error)}"
                if error.code not in _AGAIN and error.code < 500:
                    raise NoAnswer(reason, final=error.code in _NOBODY_CAN, reached=True) from None
                asked_to_wait = retry_after(error.headers.get("Retry-After"))
            except TimeoutError:
                reason = f"no answer within {self.timeout_s:g} s"
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                timed_out = isinstance(getattr(error, "reason", None), TimeoutError)
                reason = f"no answer within {self.timeout_s:g} s" if timed_out else f"not reached: {error}"
            finally:
                self.budget.end(answer)
            if number + 1 < self.tries:
                # Somewhat random, so that several threads do not come back at the same moment.
                wait = self.wait_s * 2**number * random.uniform(0.75, 1.25)
                self.sleep(min(self.most_wait_s, wait if asked_to_wait is None else asked_to_wait))
        raise NoAnswer(f"{reason} ({self.tries} tries)")

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        end = time.monotonic() + self.timeout_s
        found = bytearray()
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            # The timeout of a socket holds for one piece of data; a server that sends a byte now and then would go on.
            while piece := response.read1(1 << 16):
                found += piece
                if time.monotonic() > end:
                    raise TimeoutError
                if len(found) > _MOST_BYTES:
                    break
        return bytes(found)


def read_answer(body: bytes) -> Answer:
    """The text and the tokens in a response.

    Args:
        body: as it came.

    Returns:
        its text is None where the response is no JSON of a chat.
    """
    try:
        found = json.loads(body)
        text = found["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        found, text = None, None
    usage = found.get("usage") if isinstance(found, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(k) for k in ("prompt_tokens", "completion_tokens")]
    tokens = [n if isinstance(n, int) else None for n in counts]
    return Answer(text if isinstance(text, str) else None, tokens[0], tokens[1])


def retry_after(told: str | None) -> float | None:
    """Seconds to wait.

    Args:
        told: the header ``Retry-After``: seconds, or a date.

    Returns:
        None where there is none, or none that can be read.
    """
    if told is None:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            then = parsedate_to_datetime(told)
        except ValueError:
            return None
        if then.tzinfo is None:
            then = then.replace(tzinfo=timezone.utc)
        seconds = (then - datetime.now(timezone.utc)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def data_url(picture: bytes) -> str:
    """A picture file as a data URL.

    Args:
        picture: its bytes.
    """
    kind = next((k for begin, k in _KINDS.items() if picture.startswith(begin)), "")
    if not kind:
        kind = "webp" if picture[8:12] == b"WEBP" else "png"
    return f"data:image/{kind};base64,{b64encode(picture).decode('ascii')}"


def _said(error: urllib.error.HTTPError) -> str:
    """The endpoint's own message, if it gives one."""
    try:
        message = json.loads(error.read(1 << 16))["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return ""
    return f": {str(message).splitlines()[0][:200]}" if str(message).strip() else ""
