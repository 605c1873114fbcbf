"""Any image-text-to-text model of transformers: what it writes about pictures, and how probable an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from PIL import Image
from torch import Tensor

from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.worlds import owner

Talk = Sequence[str | Image.Image]  # what a user says: texts and pictures in their order
Model = TypeVar("Model", bound="VisionLanguageModel")


class VisionLanguageModel:
    """A model that reads pictures and text and writes text.

    Where the processor has a chat template, a talk is one turn of the user. Where it has none, the texts are taken as
    they stand. Batches are padded on the left, so that what is written follows the prompt.

    Args:
        model, processor: as `AutoModelForImageTextToText` and `AutoProcessor` give them.
        name: for messages and results.

    Attributes:
        purpose: what it is loaded for, for messages.
    """

    purpose: ClassVar[str] = "read pictures"

    def __init__(self, model: Any, processor: Any, name: str = "the model") -> None:
        self.model, self.processor, self.name = model, processor, name
        if getattr(processor, "tokenizer", None) is not None:
            processor.tokenizer.padding_side = "left"

    @classmethod
    def from_pretrained(
        cls: type[Model], name: str, *, device: str = "auto", dtype: str = "auto", **options: Any
    ) -> Model:
        """Load a model.

        Args:
            name: a folder or hub name.
            device, dtype: as in `longalign.runtime`.
            options: further arguments of the class.

        Raises:
            LongalignError: no such model, or none that reads pictures and writes text.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from longalign.runtime import pick_device, pick_dtype, quiet

        if owner(name) is not None:
            raise LongalignError(
                f"model {name!r} does not {cls.purpose}: name an image-text-to-text model of transformers, a folder "
                "or a hub name such as llava-hf/llava-v1.6-mistral-7b-hf"
            )
        local = Path(name).is_dir() or find_on_hub(name, "config.json", "model")
        device = pick_device(device)
        try:
            with quiet():
                processor = AutoProcessor.from_pretrained(name, local_files_only=local)
                model = AutoModelForImageTextToText.from_pretrained(
                    name, dtype=pick_dtype(dtype, device), local_files_only=local
                )
        except BROKEN_FILES as error:
            raise LongalignError(
                f"model {name!r} cannot be loaded to {cls.purpose}: {reason_of(error)}"
            ) from error
        return cls(model.to(device).eval(), processor, name=name, **options)

    @property
    def has_chat_template(self) -> bool:
        """Whether the processor puts talks into a form of its own."""
        return bool(getattr(self.processor, "chat_template", None))

    def inputs(self, talks: Sequence[Talk]) -> Any:
        """The model's input for a batch of talks, padded on the left.

        Args:
            talks: B talks.

        Returns:
            what the processor gives: ``input_ids`` (B, L), ``attention_mask`` (B, L), pixels.
        """
        mark = str(getattr(self.processor, "image_token", None) or "")
        images = [[part for part in talk if isinstance(part, Image.Image)] for talk in talks]
        further: dict[str, Any] = {"images": images} if any(images) else {}
        if self.has_chat_template:
            # A prompt that holds the mark of a picture would announce one that is not there.
            turns = [[{"role": "user", "content": [_content(part, mark) for part in talk]}] for talk in talks]
            texts = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            start = getattr(getattr(self.processor, "tokenizer", None), "bos_token", None)
            if start and texts[0].startswith(start):
                further["add_special_tokens"] = False
        else:
            texts = [" ".join(part for part in talk if isinstance(part, str)) for talk in talks]
        needless = self.has_chat_template or not mark or not any(images) or mark in texts[0]
        made: Any = self._processed(texts, needless, further)
        if made is None:
            marked = [mark * len(mine) + "\n" + text for mine, text in zip(images, texts, strict=True)]
            made = self._processed(marked, True, further)
        return made.to(self.model.device, self.model.dtype)

    def _processed(self, texts: Sequence[str], complete: bool, further: dict[str, Any]) -> Any | None:
        """What the processor makes of texts; None where they may lack the marks of pictures, and do.

        Without a chat template some processors put these marks into the text themselves, and some want them there.
        """
        try:
            made = self.processor(text=list(texts), padding=True, return_tensors="pt", **further)
        except ValueError:
            if complete:
                raise
            return None
        return made if complete or not self._lacks_pictures(made["input_ids"]) else None

    def _lacks_pictures(self, ids: Tensor) -> bool:
        config = getattr(self.model, "config", None)
        token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        return token is not None and not bool((ids == token).any())

    def _generate(self, talks: Sequence[Talk], **how: Any) -> tuple[Any, int]:
        """What `generate` gives, and the length of the prompts in tokens."""
        try:
            inputs = self.inputs(talks)
            found = self.model.generate(**inputs, do_sample=False, num_beams=1, **how)
        except torch.OutOfMemoryError:
            raise LongalignError(
                f"{self.name}: the device has no memory for {len(talks)} questions at once: choose a smaller batch size"
            ) from None
        except (ValueError, TypeError, IndexError) as error:
            raise LongalignError(f"{self.name}: cannot read these pictures: {reason_of(error)}") from error
        return found, inputs["input_ids"].shape[1]

    @torch.no_grad()
    def write(self, talks: Sequence[Talk], max_new_tokens: int) -> list[str]:
        """What the model writes after each talk, by greedy decoding.

        Args:
            talks: B talks.
            max_new_tokens: at most so many tokens each.

        Raises:
            LongalignError: the model cannot read them, or the memory is too small.
        """
        ids, before = self._generate(talks, max_new_tokens=max_new_tokens)
        # An encoder-decoder writes its answer alone.
        new = (
            ids
            if getattr(getattr(self.model, "config", None), "is_encoder_decoder", False)
            else ids[:, before:]
        )
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]

    def describe(
        self, images: Sequence[Image.Image], instruction: str, max_new_tokens: int = 384
    ) -> list[str]:
        """A text about each picture.

        Args:
            images: B pictures.
            instruction: what to write.
            max_new_tokens: at most so many tokens each.
        """
        return self.write([(image, instruction) for image in images], max_new_tokens)

    # P(a | x, q) = softmax(logits at the first new position)[first token of a]
    @torch.no_grad()
    def probabilities(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        answers: Sequence[str],
        batch_size: int = 8,
    ) -> Tensor:
        """How probable each answer is after each question about a picture (VQAScore, Lin et al. 2024).

        Args:
            images: N pictures.
            questions: N texts.
            answers: A texts; their first tokens count.
            batch_size: questions that the model reads at once.

        Returns:
            (N, A) float32 on the CPU.

        Raises:
            LongalignError: an answer has no token, the model cannot read the questions, or a logit is not finite.
        """
        tokens = [self.first_token(answer) for answer in answers]
        found = torch.zeros(len(questions), len(answers))
        # Questions of like length together: the model reads less padding.
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            # `generate` knows the positions of padded prompts for every architecture, a plain call does not.
            made, _ = self._generate(
                [(images[i], questions[i]) for i in rows],
                max_new_tokens=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logits = made.logits[0].float()  # (B, vocabulary)
            if not logits[:, tokens].isfinite().all():
                raise LongalignError(
                    f"{self.name}: a logit is not finite: try the model in float32 or bfloat16"
                )
            found[rows] = logits.softmax(-1)[:, tokens].cpu()
        return found

    def probability_of(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        answer: str = "Yes",
        batch_size: int = 8,
    ) -> list[float]:
        """How probable one answer is after each question.

        Args:
            images, questions: N each.
            answer: its first token counts.
            batch_size: questions that the model reads at once.
        """
        numbers: list[float] = self.probabilities(images, questions, (answer,), batch_size)[:, 0].tolist()
        return numbers

    def first_token(self, answer: str) -> int:
        """The id of an answer's first token that is not blank.

        Args:
            answer: begins with a blank where the model's tokenizer has another token for it in mid-sentence.

        Raises:
            LongalignError: there is none, or the tokenizer does not know the answer.
        """
        tokenizer = self.processor.tokenizer
        ids = tokenizer(answer, add_special_tokens=False).input_ids
        first = next((i for i in ids if tokenizer.decode([i]).strip()), None)
        if first is None or first == getattr(tokenizer, "unk_token_id", None):
            raise LongalignError(f"{self.name}: its tokenizer has no token for the answer {answer!r}")
        return int(first)


def _content(part: str | Image.Image, mark: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part.replace(mark, "") if mark else part}
    return {"type": "image", "image": part}
