"""The settings of the studio: what it offers, where it writes, who may use it, and how large a job may be."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from longalign.errors import LongalignError
from longalign.worlds import DEFAULT

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """The largest job that one user may ask for.

    Attributes:
        prompt_chars: characters of a text.
        steps: sampling steps.
        side_px: longer side of a picture that is drawn.
        pictures: pictures of a job, of all models and tries together.
        upload_bytes: size of one uploaded file, and of any other request.
        upload_px: pixels of an uploaded picture.
        uploads: pictures that are checked together.
        waiting: jobs that may wait; one more is refused with a message.
    """

    prompt_chars: int = 20_000
    steps: int = 100
    side_px: int = 2048
    pictures: int = 32
    upload_bytes: int = 32 * 2**20
    upload_px: int = 64_000_000
    uploads: int = 500
    waiting: int = 200

    def text(self, text: str, what: str = "the prompt") -> str:
        """The text as it may be used.

        Args:
            text: what the user wrote.
            what: its name in the message.

        Raises:
            LongalignError: it is empty or too long.
        """
        if not isinstance(text, str) or not text.strip():
            raise LongalignError(f"{what} is empty: write what the picture shows")
        if len(text) > self.prompt_chars:
            raise LongalignError(
                f"{what} has {len(text):,} characters; at most {self.prompt_chars:,} are allowed here"
            )
        return text

    def count(self, value: float, most: int, what: str, least: int = 1) -> int:
        """A whole number within its limits.

        Args:
            value: what the user chose.
            most, least: the limits.
            what: its name in the message.

        Raises:
            LongalignError: it is not a whole number, or out of range.
        """
        bad = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        if bad or value != int(value) or not least <= value <= most:
            raise LongalignError(
                f"{what} must be a whole number from {least:,} to {most:,}, not {value!r:.40}"
            )
        return int(value)


@dataclass(frozen=True)
class StudioConfig:
    """What a studio offers and where it stands.

    Attributes:
        models: names of models, as of `longalign.load_pipeline`.
        loras: LoRAs that can be put on them; a model's embedded ones are offered, too.
        soft_tokens: trained soft tokens, likewise.
        scorer: the preference model that judges sentences; None: the world's judge alone.
        out: the folder of runs. The studio reads and writes nothing else.
        host, port: where it listens; port 0 takes a free one.
        auth: ``user:password``; needed beyond this machine.
        keep: loaded models that are kept in memory.
        device, dtype: as of `longalign.load_pipeline`.
        limits: of a job.
    """

    models: tuple[str, ...] = (DEFAULT,)
    loras: tuple[str, ...] = ()
    soft_tokens: tuple[str, ...] = ()
    scorer: str | None = DEFAULT
    out: Path = Path("runs")
    host: str = "127.0.0.1"
    port: int = 7860
    auth: str | None = None
    keep: int = 4
    device: str = "auto"
    dtype: str = "auto"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.models:
            raise LongalignError("a studio needs at least one model")
        if self.keep < 1:
            raise LongalignError(f"at least one model must be kept, not {self.keep}")
        if self.auth is not None and not all(self.auth.partition(":")[::2]):
            raise LongalignError("--auth needs a name and a password: --auth USER:PASSWORD")
        if self.host not in LOOPBACK and self.auth is None:
            raise LongalignError(
                f"--host {self.host}: other machines could use the studio, so it needs --auth USER:PASSWORD "
                "(without --host it listens on this machine alone)"
            )
        if not 0 <= self.port < 65536:
            raise LongalignError(f"a port is a number from 0 to 65535, not {self.port}")


def need_gradio() -> None:
    """Raises LongalignError: Gradio is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is sent to anybody
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise LongalignError("the studio needs Gradio: pip install 'longalign[ui]'") from None
