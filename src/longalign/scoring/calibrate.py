"""`longalign calibrate` as a function: what a sentence's score means, measured on captioned pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.preference.calibration import Calibration, Kind
from longalign.preference.late import kinds_of, late_scores
from longalign.preference.scores import SCALE
from longalign.scoring.data import Failure, Pair
from longalign.scoring.stream import Embedder, embed_images

SWAPPED_AMONG = 64  # pictures; a caption is swapped with that of a picture half as many further on
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A picture with sentences that are true of it, and sentences that are not."""

    pair: Pair
    true: Sequence[str]
    false: Sequence[str]


def _batched(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(rows)
    while chunk := list(islice(stream, size)):
        yield chunk


def swapped(model: PreferenceModel, pairs: Iterable[Pair | Failure]) -> Iterator[Asked | Failure]:
    """Own captions as true, those of other pictures as false, sentence by sentence; a sentence of both is left out.

    Nobody has labelled anything: a caption may err, and another picture's may happen to fit.
    """
    for chunk in _batched(pairs, SWAPPED_AMONG):
        good = [pair for pair in chunk if isinstance(pair, Pair) and pair.text.strip()]
        yield from (pair for pair in chunk if isinstance(pair, Failure))
        own = [[segment.text for segment in model.segments(pair.text)] for pair in good]
        for i, pair in enumerate(good):
            other = own[(i + max(1, len(good) // 2)) % len(good)]
            yield Asked(pair, own[i], [text for text in other if text not in own[i]])


def sentence_scores(
    model: PreferenceModel,
    asked: Iterable[Asked | Failure],
    kind: Kind | None = None,
    *,
    batch_size: int = 32,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> tuple[Kind, list[float], list[float], int]:
    """The scores (× 100) of true and of false sentences, and how many pictures could not be read.

    Args:
        kind: which score; None: the one that the model judges sentences by.

    Raises:
        LongalignError: the model has no such score.
    """
    possible = kinds_of(model.late)
    if model.decomposition is None:
        possible = tuple(k for k in possible if k != "aligned")
    kind = kind or possible[0]
    if kind not in possible:
        raise LongalignError(
            f"the {kind} score cannot be calibrated: this model judges by {' or '.join(possible)}"
        )
    embedder = Embedder(model)
    true: list[float] = []
    false: list[float] = []
    failed = 0
    for chunk in _batched(asked, batch_size):
        of_pair = {id(item.pair): item for item in chunk if isinstance(item, Asked)}
        failed += sum(isinstance(item, Failure) for item in chunk)
        pairs = [item.pair for item in chunk if isinstance(item, Asked)]
        for batch in embed_images(embedder, pairs, batch_size):
            for seen in batch:
                if isinstance(seen, Failure):
                    failed += 1
                    continue
                item, x = of_pair[id(seen[0])], seen[1]
                texts = [*item.true, *item.false]
                tokens = embedder.tokens(texts)
                if x.patches is not None and tokens is not None:
                    found = late_scores(x.patches[None], tokens, [len(texts)])
                else:
                    c = embedder.texts(texts)
                    if kind == "aligned":
                        assert model.decomposition is not None
                        c = model.decomposition.split(c)[0]
                    found = c @ x.pooled
                values = (SCALE * found).tolist()
                true += values[: len(item.true)]
                false += values[len(item.true) :]
        on_step(len(chunk))
    return kind, true, false, failed


def calibrate(
    model: PreferenceModel,
    asked: Iterable[Asked | Failure],
    *,
    source: str,
    kind: Kind | None = None,
    error: float = 0.05,
    batch_size: int = 32,
    save_to: str | Path | None = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Calibration:
    """Fits a calibration and gives it to the model.

    Args:
        asked: pictures with their sentences: `swapped` pairs, or what is known.
        source: what they are, in words.
        kind: see `sentence_scores`.
        error: the share of wrong verdicts that is promised among the firm ones.
        save_to: a file.

    Raises:
        LongalignError: too few sentences, a score that the model has not, true sentences that do not score higher.
    """
    kind, true, false, failed = sentence_scores(model, asked, kind, batch_size=batch_size, on_step=on_step)
    about = source + (f"; {failed} pictures could not be read" if failed else "")
    found = Calibration.fit(true, false, kind, error=error, source=about)
    if save_to is not None:
        found.save(save_to)
    model.calibration = found
    return found
