"""What all tabs share: the models, the folders, and how errors are shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from longalign.errors import LongalignError
from longalign.studio.folders import Folders
from longalign.studio.markup import message_html, progress_html
from longalign.studio.settings import Limits, StudioConfig
from longalign.studio.stacks import Stacks
from longalign.studio.stepping import Done, Progress

log = logging.getLogger("longalign.studio")
Result = TypeVar("Result")

MODEL = "model"  # jobs with this name take turns: a device draws one picture at a time


@dataclass(frozen=True)
class Context:
    """The studio that a tab is part of.

    Attributes:
        config: its settings.
        stacks: the models.
        folders: where results are.
    """

    config: StudioConfig
    stacks: Stacks
    folders: Folders

    @property
    def limits(self) -> Limits:
        """Of a job."""
        return self.config.limits


def steps_of(
    job: Iterator[Progress | Done[Result]], show: Callable[[str], Any], end: Callable[[Result], Any]
) -> Iterator[Any]:
    """A job for the page: what it yields while it runs, at its end, and when it fails.

    Args:
        job: progress, then the result.
        show: HTML of the progress, or of an error → what the page's parts become.
        end: the result → the same.
    """
    preview = None
    try:
        for item in job:
            if isinstance(item, Progress):
                preview = item.preview or preview  # it stays until there is a newer one
                yield show(progress_html(replace(item, preview=preview)))
            else:
                yield end(item.result)
    except Exception as error:
        yield show(message_html(explain(error), "error"))


def explain(error: Exception) -> str:
    """What the page says of an error. Those that are not the user's are logged, with a traceback.

    Args:
        error: what a job raised.
    """
    if isinstance(error, LongalignError):
        return str(error)
    log.error("a job failed", exc_info=error)
    if "out of memory" in str(error).lower():
        return "The device has not enough memory for this: draw fewer or smaller pictures at once"
    return f"Something broke ({type(error).__name__}). The terminal of the studio has the details"
