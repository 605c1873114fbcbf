"""`repair`: draws a prompt, and draws again what came out wrong, while what is right stays."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from longalign.diffusion.attend import attending, densities
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import settings_of
from longalign.diffusion.sampling import sample, to_images
from longalign.encoding.conditioning import Conditioning
from longalign.encoding.encode import encode
from longalign.encoding.options import EncodeOptions
from longalign.encoding.segments import Segment
from longalign.encoding.syntax import Marked, read_syntax
from longalign.encoding.word_columns import span_columns
from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.repairing.guide import preference_guide
from longalign.repairing.methods import DEFAULT, RepairSettings
from longalign.repairing.redraw import Guide, redraw, steps_taken
from longalign.repairing.regions import region_of
from longalign.repairing.result import Attempt, Repaired
from longalign.repairing.verdicts import Choice, Verdicts, judge_pictures


def repair(
    pipe: Any,
    prompt: str,
    *,
    scorer: PreferenceModel | str | None,
    rounds: int = 2,
    best_of: int = 1,
    method: str = DEFAULT,
    seed: int = 0,
    negative_prompt: str | None = None,
    steps: int = 25,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    pictures_at_once: int = 16,
    weight: float = 1.25,
    start: float = 1.0,
    level: float = 0.7,
    strength: float = 0.1,
    choice: Choice = "mean",
    on_step: Callable[[int], None] = lambda pictures: None,
    **encoding: Unpack[EncodeOptions],
) -> Repaired:
    """Draws a prompt, asks a preference model which sentences are false, and draws again what shows them::

        scorer = longalign.PreferenceModel.from_pretrained("stickers")
        repaired = longalign.repair(pipe, prompt, scorer=scorer, rounds=2)
        repaired.image.save("after.png")

    The best of `best_of` pictures is repaired. Each round takes the sentences of the best picture so far that may be
    false. The region that attention gives them is drawn again, with more weight on them; the latents outside are kept.
    The new picture is accepted if it is better, and if it makes no other sentence false. Without a doubtful sentence
    there are no further rounds.

    Args:
        pipe: a pipeline of SD 1.x, 2.x, XL or 3. Its scheduler is used.
        prompt: of any length, with at least one sentence.
        scorer: the preference model, or its name for `PreferenceModel.from_pretrained`. With a calibration it gives
            P(true) of each sentence; without, the sentence with the lowest score is repaired.
        rounds, best_of, method, weight, start, level, strength, choice: as in `RepairSettings`.
        seed: of the first picture, as of `longalign.generate`. Further noise depends on it alone.
        negative_prompt: of any length.
        steps: sampling steps of a picture.
        guidance: classifier-free guidance scale; None is the model's, else the pipeline's default.
        size: (width, height) in pixels; None for the model's own.
        pictures_at_once: most pictures in one call of the model.
        on_step: called after each sampling step with the number of pictures in the batch.
        encoding: further arguments of `longalign.encode`.

    Raises:
        LongalignError: there is no scorer or no sentence, a setting is out of range, or attention of this model is not
            known.
    """
    settings = RepairSettings(rounds, best_of, method, weight, start, level, strength, choice)
    if scorer is None:
        raise LongalignError(
            "a repair needs a preference model that says which sentences are false: give scorer=, such as 'stickers', "
            "a CLIP folder or a hub name (--scorer)"
        )
    if isinstance(scorer, str | os.PathLike):
        scorer = PreferenceModel.from_pretrained(scorer, device=str(pipe.device))
    if guidance is None:
        guidance = settings_of(pipe.name_or_path or os.devnull, pipe).guidance
    work = _Work(pipe, prompt, scorer, settings, seed, negative_prompt, encoding)
    work.steps, work.guidance, work.on_step = steps, guidance, on_step
    work.draw(size, pictures_at_once)
    for turn in range(1, rounds + 1):
        if not work.best.verdicts.doubtful:
            break
        if settings.parts:
            work.mend(turn)
        else:
            work.draw(size, pictures_at_once, turn)
    return work.result()


class _Work:
    """The repair of one prompt while it runs."""

    steps: int
    guidance: float | None
    on_step: Callable[[int], None]

    def __init__(
        self,
        pipe: Any,
        prompt: str,
        scorer: PreferenceModel,
        settings: RepairSettings,
        seed: int,
        negative_prompt: str | None,
        encoding: Mapping[str, Any],
    ) -> None:
        self.pipe, self.prompt, self.scorer, self.settings = pipe, prompt, scorer, settings
        self.seed, self.negative_prompt, self.encoding = seed, negative_prompt, encoding
        syntax = encoding.get("syntax", "plain")
        if "weights" in settings.parts and syntax == "a1111":
            raise LongalignError(
                "weights of sentences do not go with the notation of A1111: repair by method='region', or write the "
                "prompt in compel's notation"
            )
        self.marked: Marked = read_syntax(prompt, syntax)
        self.sentences: list[Segment] = scorer.segments(self.marked.text)
        if not any(any(map(str.isalnum, s.text)) for s in self.sentences):
            raise LongalignError(
                "the prompt has no sentence: there is nothing that a picture could get wrong"
            )
        self.conditioning = self._encoded(())
        self.columns = [
            span_columns(
                pipe,
                self.conditioning,
                prompt,
                [(s.start, s.end) for s in self.sentences],
                negative_prompt,
                **encoding,
            )
        ]
        self.attempts: list[Attempt] = []
        self.latents: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.chosen = self.first = 0

    @property
    def best(self) -> Attempt:
        """The best picture so far."""
        return self.attempts[self.chosen]

    def result(self) -> Repaired:
        """What was done."""
        maps = self.maps[self.first] if self.maps else None
        return Repaired(
            self.prompt, tuple(self.sentences), tuple(self.attempts), self.chosen, self.first, maps
        )

    def draw(self, size: tuple[int, int] | None, batch_size: int, turn: int = 0) -> None:
        """Draws new pictures: the first ones, or one more in a round of ``redraw``."""
        count = self.settings.best_of if turn == 0 else 1
        seeds = [self._seed(turn, k) for k in range(count)]
        regions = turn == 0 and self.settings.rounds > 0 and "region" in self.settings.parts
        found: dict[int, Tensor] = {}
        for begin in range(0, count, batch_size):
            some = seeds[begin : begin + batch_size]
            of_batch = self.conditioning[[0] * len(some)]
            columns = self.columns * len(some)
            seen = attending(self.pipe, of_batch, columns=columns) if regions else nullcontext()
            with seen as maps:
                images = sample(
                    self.pipe,
                    of_batch,
                    some,
                    steps=self.steps,
                    guidance=self.guidance,
                    size=size,
                    batch_size=batch_size,
                    on_step=self.on_step,
                    on_latents=found.__setitem__,
                )
            if maps is not None:
                self.maps += densities(maps.result(), columns)
            self.latents += [found[k].cpu() for k in range(len(some))]
            for image, of_seed, verdicts in zip(images, some, self._judged(images), strict=True):
                self._add(Attempt(image, turn, of_seed, verdicts, self.steps, False))
        if turn == 0:
            self.first = self.chosen

    def mend(self, turn: int) -> None:
        """One round: draws what the doubtful sentences of the best picture are about again."""
        best, known = self.best, self.latents[self.chosen]
        doubtful, (height, width) = best.verdicts.doubtful, known.shape[-2:]
        region = torch.ones(height, width, dtype=torch.bool)
        if self.maps:
            region = region_of(self.maps[self.first], doubtful, (height, width), self.settings.level)
            if not region.any():
                region[:] = True  # the sentences were cut off: attention knows no place for them
        seed = self._seed(turn, 0)
        denoiser = Denoiser.of(self.pipe)
        guide: Guide | None = None
        if "gradient" in self.settings.parts:
            texts = [s.text for s in self.sentences]
            guide = preference_guide(denoiser, self.scorer, texts, doubtful, strength=self.settings.strength)
        guidance = self._guidance()
        latents = redraw(
            self.pipe,
            known,
            region,
            self._encoded(doubtful, self.settings.weight_in(turn)),
            seed,
            steps=self.steps,
            start=self.settings.start,
            guidance=guidance,
            guide=guide,
            on_step=self.on_step,
        )
        with torch.no_grad():
            images = to_images(denoiser.decode(latents[None]).float())
        self.latents.append(latents.cpu())
        self._add(
            Attempt(
                images[0],
                turn,
                seed,
                self._judged(images)[0],
                steps_taken(self.steps, self.settings.start),
                False,
                of=self.chosen,
                doubtful=doubtful,
                region=region,
            )
        )

    def _add(self, attempt: Attempt) -> None:
        """Keeps a picture, as the best one if it is."""
        number = len(self.attempts)
        self.attempts.append(attempt)
        spoiled: tuple[int, ...] = ()
        if not number:
            accepted = True
        else:
            choice = self.settings.choice
            spoiled = () if attempt.of is None else attempt.verdicts.spoils(self.best.verdicts)
            accepted = not spoiled and attempt.verdicts.rank(choice) > self.best.verdicts.rank(choice)
        self.attempts[number] = replace(attempt, accepted=accepted, spoiled=spoiled)
        if accepted:
            self.chosen = number

    def _judged(self, images: Sequence[Image.Image]) -> list[Verdicts]:
        return judge_pictures(self.scorer, images, self.marked.text, [s.text for s in self.sentences])

    def _encoded(self, doubtful: Sequence[int], weight: float = 1.0) -> Conditioning:
        """The prompt, with a weight on the segments that the doubtful sentences are in."""
        options: Any = dict(self.encoding)
        if weight != 1.0 and doubtful:
            origin = self.marked.origin
            spans = [self.sentences[i] for i in doubtful]
            places = [(origin[s.start], origin[s.end - 1] + 1) for s in spans]
            options["weights"] = [
                weight if any(start < s.end and end > s.start for start, end in places) else 1.0
                for s in self.conditioning.segments[0]
            ]
        return encode(self.pipe, self.prompt, self.negative_prompt, **options)

    def _guidance(self) -> float:
        """The scale that the pipeline itself would use."""
        if self.guidance is not None:
            return self.guidance
        return float(inspect.signature(type(self.pipe).__call__).parameters["guidance_scale"].default)

    def _seed(self, turn: int, k: int) -> int:
        """Of picture k of a round. The first is the seed itself: the picture that is drawn without repair."""
        if turn == k == 0:
            return self.seed
        return int(np.random.SeedSequence([self.seed, turn, k]).generate_state(1)[0])
