"""ImageReward: a BLIP that reads picture and prompt together, trained on people's preferences (Xu et al. 2023).

The published ImageReward.pt has BLIP's own names. Here its tensors are put into transformers' `BlipVisionModel` and
`BlipTextModel`, which are the same networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.metrics.metric import Metric, MetricColumn, PictureBatch, Tools
from longalign.metrics.weight_files import linear_chain, read_state
from longalign.preference.preprocess import Preprocess
from longalign.runtime import inference, pick_device, pick_dtype, quiet
from longalign.safe_files import check_shapes

WINDOW_TOKENS = 35
# Mean and deviation of the raw rewards on the authors' validation set; the published score is standardised by them.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
_HEAD_WIDTH = 64  # of an attention head, in both towers
_HOW = (
    "download ImageReward.pt of THUDM/ImageReward from the hub and give --set imagereward.model=FILE; its words are "
    "those of google-bert/bert-base-uncased, --set imagereward.tokenizer=FOLDER"
)
_VISION = {
    r"cls_token": "embeddings.class_embedding",
    r"pos_embed": "embeddings.position_embedding",
    r"patch_embed\.proj\.(weight|bias)": r"embeddings.patch_embedding.\1",
    r"blocks\.(\d+)\.norm([12])\.(weight|bias)": r"encoder.layers.\1.layer_norm\2.\3",
    r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)": r"encoder.layers.\1.self_attn.qkv.\2",
    r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": r"encoder.layers.\1.self_attn.projection.\2",
    r"blocks\.(\d+)\.mlp\.(fc[12]\.(?:weight|bias))": r"encoder.layers.\1.mlp.\2",
    r"norm\.(weight|bias)": r"post_layernorm.\1",
}
_POSITIONS = "embeddings.position_ids"  # counts from 0; transformers makes it itself


@dataclass(frozen=True)
class ImageRewardOptions:
    """Options of `ImageReward`.

    Attributes:
        model: the published file.
        tokenizer: folder or hub name of BERT's tokenizer.
    """

    model: str | None = None
    tokenizer: str = "google-bert/bert-base-uncased"


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """ImageReward's state dict → those of `BlipVisionModel`, of `BlipTextModel` without pooling, and of the head.

    BLIP's heads for other tasks (``blip.vision_proj`` and the like) are left out, as the published code does.

    Args:
        state: keys begin with ``blip.visual_encoder.``, ``blip.text_encoder.`` and ``mlp.``.

    Raises:
        LongalignError: a key that neither tower has (it is named).
    """
    vision: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, rest = key.removeprefix("blip.").partition(".")
        if part == "visual_encoder":
            vision[_vision_name(rest)] = value
        elif part == "text_encoder":
            if rest != _POSITIONS:
                text[rest] = value
        elif part == "mlp":
            head[rest] = value
        elif not key.startswith("blip."):
            raise LongalignError(f"{key!r} is in no ImageReward: a checkpoint of another model?")
    return vision, text, head


def _vision_name(name: str) -> str:
    for pattern, new in _VISION.items():
        if found := re.fullmatch(pattern, name):
            return found.expand(new)
    raise LongalignError(f"'blip.visual_encoder.{name}' is in no ImageReward: a checkpoint of another model?")


class RewardModel(nn.Module):
    """ImageReward's network.

    Args:
        state: the published state dict. All widths and depths are read from its shapes.
        name: of the file, for messages.
        vision_heads, text_heads: heads of the attention; None: one for each 64 numbers, as in the published model.

    Raises:
        LongalignError: it is no ImageReward: a tensor is missing, left over, or of another shape.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        name: str,
        vision_heads: int | None = None,
        text_heads: int | None = None,
    ) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        try:
            vision, text, head = convert(state)
            patch = vision["embeddings.patch_embedding.weight"]  # (W, 3, p, p)
            places = vision["embeddings.position_embedding"].shape[1]  # 1 + n²
            words, width = text["embeddings.word_embeddings.weight"].shape
            of_vision = BlipVisionConfig(
                hidden_size=len(patch),
                intermediate_size=len(vision["encoder.layers.0.mlp.fc1.bias"]),
                num_hidden_layers=_layers(vision, r"encoder\.layers\.(\d+)\."),
                num_attention_heads=vision_heads or max(1, len(patch) // _HEAD_WIDTH),
                image_size=patch.shape[-1] * round((places - 1) ** 0.5),
                patch_size=patch.shape[-1],
                layer_norm_eps=1e-6,  # BLIP's; transformers' default is another
            )
            of_text = BlipTextConfig(
                vocab_size=words,
                hidden_size=width,
                encoder_hidden_size=len(patch),
                intermediate_size=len(text["encoder.layer.0.intermediate.dense.bias"]),
                num_hidden_layers=_layers(text, r"encoder\.layer\.(\d+)\."),
                num_attention_heads=text_heads or max(1, width // _HEAD_WIDTH),
                max_position_embeddings=len(text["embeddings.position_embeddings.weight"]),
            )
        except KeyError as error:
            raise LongalignError(f"{name}: is no ImageReward: {error} is missing") from None
        except LongalignError as error:
            raise LongalignError(f"{name}: is no ImageReward: {error}") from None
        with torch.device("meta"):
            self.vision = BlipVisionModel(of_vision)
            self.text = BlipTextModel(of_text, add_pooling_layer=False)
        for tower, weights, what in ((self.vision, vision, "picture"), (self.text, text, "text")):
            shapes = {key: tuple(value.shape) for key, value in tower.state_dict().items()}
            found = {key: tuple(value.shape) for key, value in weights.items()}
            check_shapes(found, shapes, f"{name}: is no ImageReward: the weights of its {what} encoder")
            tower.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
        # Not part of a state dict, so it is still on "meta".
        self.text.embeddings.position_ids = torch.arange(of_text.max_position_embeddings)[None]
        self.head = linear_chain(head, name)
        self.eval().requires_grad_(False)

    @property
    def image_px(self) -> int:
        """Side of the pictures: 224."""
        return int(self.vision.config.image_size)

    # r = (head(h_CLS) − μ) / σ,   h = text tower, which attends to the picture's patches
    def forward(self, pictures: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards, standardised as published.

        Args:
            pictures: (B, 3, S, S) normalised as for CLIP.
            ids: (B, L) tokens; the first is BERT's ``[CLS]``.
            mask: (B, L) 1 at tokens, 0 at padding.

        Returns:
            (B,) float32.
        """
        patches = self.vision(pixel_values=pictures.to(self.vision.dtype)).last_hidden_state  # (B, 1 + n², W)
        read = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=patches)
        raw = self.head(read.last_hidden_state[:, 0].float())[:, 0]
        return (raw - MEAN) / DEVIATION


def _layers(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for key in state if (found := re.match(pattern, key))})


class ImageReward(Metric):
    """ImageReward of each picture and the first 35 tokens of its prompt.

    Args:
        tools: what the evaluation has loaded.
        options: an `ImageRewardOptions`; None: the defaults.

    Raises:
        LongalignError: no file is given, it is no ImageReward, or the tokenizer cannot be loaded.
    """

    name = "imagereward"
    columns = (MetricColumn("imagereward", "ImageReward", ".3f", "higher"),)
    Options = ImageRewardOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        if self.options.model is None:
            raise LongalignError(f"imagereward: no model is given: {_HOW}")
        self.tokenizer = _tokenizer(self.options.tokenizer)
        device = pick_device(tools.device)
        model = RewardModel(read_state(self.options.model), self.options.model)
        if len(self.tokenizer) > (known := model.text.config.vocab_size):
            raise LongalignError(
                f"imagereward: the tokenizer {self.options.tokenizer} has {len(self.tokenizer)} tokens, but the model "
                f"knows {known}: they do not belong together"
            )
        self.device = device
        self.model = model.to(device)
        for tower in (
            self.model.vision,
            self.model.text,
        ):  # the head stays in float32, as in the published code
            tower.to(pick_dtype(tools.dtype, device))
        self.preprocess = Preprocess(model.image_px)

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The published file."""
        return () if options.model is None else (options.model,)

    @property
    def reads(self) -> str:
        """Names the window."""
        return f"the first {WINDOW_TOKENS} tokens"

    @property
    def what(self) -> str:
        """Names the file."""
        return str(self.options.model)

    def share_read(self, prompts: Sequence[str]) -> str:
        """The share of the prompts' tokens that fit the window.

        Args:
            prompts: of all pictures of all sets.
        """
        texts = list(dict.fromkeys(prompts))
        counts = (
            [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False).input_ids] if texts else []
        )
        read, whole = sum(min(n, WINDOW_TOKENS - 2) for n in counts), sum(counts)
        return f"{read / whole:.1%} of the tokens" if whole else "—"

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        """One reward a picture.

        Args:
            batch: decoded pictures with their prompts.

        Raises:
            LongalignError: a reward is not finite.
        """
        # Padded to the window, so that no reward depends on the other prompts of a batch.
        words = self.tokenizer(
            list(batch.prompts),
            padding="max_length",
            truncation=True,
            max_length=WINDOW_TOKENS,
            return_tensors="pt",
        )
        prepared = torch.cat([self.preprocess.picture(image) for image in batch.images])
        with inference(self.model):
            found = self.model(
                *(x.to(self.device) for x in (prepared, words.input_ids, words.attention_mask))
            )
        if not found.isfinite().all():
            raise LongalignError("imagereward: a reward is not finite: try the model in float32")
        rewards: list[float] = found.tolist()
        return rewards


def _tokenizer(name: str) -> Any:
    from transformers import BertTokenizer

    folder = Path(name)
    try:
        if folder.is_dir():
            if not any((folder / file).is_file() for file in ("vocab.txt", "tokenizer.json")):
                raise LongalignError(f"{name}: no vocab.txt or tokenizer.json in this folder")
            local = True
        else:
            local = find_on_hub(name, "tokenizer_config.json", "tokenizer")
        with quiet():
            return BertTokenizer.from_pretrained(name, local_files_only=local)
    except LongalignError as error:
        raise LongalignError(f"imagereward: {error} ({_HOW})") from error
    except BROKEN_FILES as error:
        raise LongalignError(
            f"imagereward: tokenizer {name!r} cannot be loaded: {reason_of(error)}"
        ) from error
