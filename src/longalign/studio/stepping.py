"""Long work in a thread, with what it has to tell as an iterator. A consumer that leaves ends the work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        share: from 0 to 1.
        message: what is done now.
        preview: a picture that is not ready.
    """

    share: float
    message: str
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The end of a job.

    Attributes:
        result: what it gave.
    """

    result: Result


class _Left(BaseException):
    """The consumer left. No handler of the work should catch it."""


def stepwise(work: Callable[[Callable[[Progress], None]], Result]) -> Iterator[Progress | Done[Result]]:
    """Runs work in a thread.

    Args:
        work: is given a function that it calls with its progress, between its steps. After the consumer has left this
            function raises, and the work ends there.

    Raises:
        Exception: what the work raised.
    """
    news: queue.Queue[Progress | Done[Result] | BaseException] = queue.Queue()
    left = threading.Event()

    def tell(progress: Progress) -> None:
        if left.is_set():
            raise _Left
        news.put(progress)

    def run() -> None:
        try:
            news.put(Done(work(tell)))
        except BaseException as error:
            news.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Done):
                return
    finally:
        left.set()
        thread.join()
