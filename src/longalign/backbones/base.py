"""The base class of backbones: everything that longalign asks about a family of text-to-image models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from longalign.backbones.latents import decode, encode_pixels
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from torch import Tensor, nn

Parameterisation = Literal["epsilon", "v", "flow"]

_PREDICTION_TYPES: dict[str, Parameterisation] = {"epsilon": "epsilon", "v_prediction": "v"}


class Pipeline(Protocol):
    """What longalign uses of a diffusers text-to-image pipeline.

    The denoising module has another name in each family: ask `longalign.backbones.denoising_module`.

    Attributes:
        components: name → part; a part that is not loaded is None.
        scheduler: solver and noise schedule.
        vae: the `AutoencoderKL`.
    """

    components: dict[str, Any]
    scheduler: Any
    vae: Any

    def __call__(self, **kwargs: Any) -> Any:
        """Samples images from conditionings."""


@dataclass(frozen=True)
class TokenPlaces:
    """Where the soft tokens of SoftREPA stand in a backbone, and the settings of the paper.

    Attributes:
        joint: False: the tokens stand among the text that cross-attention reads, in whole stages of a UNet. True: they
            stand before the text stream of the first blocks of a joint-attention transformer.
        attention_arguments: the argument of the denoising module that diffusers hands down to every block.
        latents: the argument of the denoising module that holds the noised latents.
        published: the paper's values for `longalign.soft_tokens.SoftTokenConfig`: width, stages or layers, buckets.
        released: (number of dimensions, last size) of the token files of the release that are for this backbone.
        matched_weight: λ, the paper's weight of the matched pairs' error in the contrastive loss.
        start: the paper's start of the tokens: ``empty`` (the first state of the empty prompt) or ``random``.
    """

    joint: bool
    attention_arguments: str
    latents: str
    published: Mapping[str, Any]
    released: Sequence[tuple[int, int]]
    matched_weight: float
    start: Literal["empty", "random"]


class Backbone:
    """A family of text-to-image models. Subclasses set the attributes and override what differs.

    A subclass has no state. It is entered into `longalign.backbones.BACKBONES` under its family name, by this package
    or by the entry point ``backbone.<family>`` of another one.

    Attributes:
        family: its name in conditionings, caches and soft-token files.
        title: its name in messages.
        abbreviation: its short name in messages.
        component: name of the denoising module in pipelines, and first part of the keys of LoRA files.
        module_class: name of the denoising module's class. Subclasses of that class count, too.
        flow: True: the module predicts ε − x_0 at σ = t/1000. False: the pipeline's scheduler states what it predicts.
        clips: names of the CLIP text encoders in pipelines, in the order in which their states are joined.
        may_lack: those of `clips` that some models of the family do not have (SDXL's refiner lacks the first).
        clip_tokens: whether the module reads the token states of the CLIPs, or only their pooled vectors.
        penultimate: whether a CLIP's states are those before the last layer, or the last ones after the final norm.
        pooled_clips: places among the CLIPs whose pooled vectors are joined; empty if the module wants none.
        t5: name of the family's own T5 encoder in pipelines, or None.
        t5_optional: whether zeros may take the place of the T5's states.
        t5_length: tokens to which the pipeline itself pads a text for its T5.
        lora_blocks: class names of the blocks whose Linears and Conv2ds a LoRA changes.
        guidance: the guidance scale that the papers sample with; None leaves the pipeline its default.
        length: tokens to which one encoder's part is padded by default (LongAlign: 240).
        takes_frames: whether the module is told the true size and the crop of each picture. `predict` gets frames only
            then.
        token_places: where soft tokens go; None if the family has no place for them.
    """

    family: str
    title: str
    abbreviation: str
    component: str = "unet"
    module_class: str
    flow: bool = False

    clips: tuple[str, ...] = ("text_encoder",)
    may_lack: tuple[str, ...] = ()
    clip_tokens: bool = True
    penultimate: bool = False
    pooled_clips: tuple[int, ...] = ()
    t5: str | None = None
    t5_optional: bool = False
    t5_length: int = 0

    lora_blocks: tuple[str, ...] = ("Attention", "FeedForward")
    guidance: float | None = None
    length: int = 240
    takes_frames: bool = False
    token_places: TokenPlaces | None = None

    # Which models belong to the family

    def is_module(self, module: Any) -> bool:
        """Whether a denoising module belongs to the family, by the names of its classes and its configuration."""
        return self.module_class in {kind.__name__ for kind in type(module).__mro__}

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Names of all text encoders in pipelines: the CLIPs, then the T5."""
        return (*self.clips, *([self.t5] if self.t5 else []))

    # Text

    def text_names(self, components: Mapping[str, Any]) -> list[str]:
        """Names of the text encoders that a pipeline has, without those that the model may lack and does.

        Args:
            components: name → part of a pipeline; a part that is not loaded is None.
        """
        names = [name for name in self.text_encoders if name in components]
        return [
            name
            for name in names
            if name not in self.may_lack
            or components[name] is not None
            or components.get(tokenizer_name(name)) is not None
        ]

    def accepts_clips(self, names: Sequence[str]) -> bool:
        """Whether these CLIPs are those of the family: all of them, or all but `may_lack`."""
        return len(names) == len(self.clips) or tuple(names) == tuple(
            name for name in self.clips if name not in self.may_lack
        )

    def zero_negative(self, pipe: Any) -> bool:
        """Whether a pipeline takes zeros for a negative prompt that is None. Otherwise it is the empty prompt."""
        return False

    def joint_width(self, components: Mapping[str, Any]) -> int | None:
        """Width of the text that the module reads, by its configuration; needed only where its T5 may be missing."""
        return getattr(getattr(components.get(self.component), "config", None), "joint_attention_dim", None)

    def clip_states(self, output: Any) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) token states and (B, P) pooled vectors, read from the output of a CLIP text model.

        Only a model with a projection gives pooled vectors here.
        """
        states = output.hidden_states[-2] if self.penultimate else output[0]
        return states, output[0] if output[0].ndim == 2 else None

    def skipped_states(self, output: Any, model: Any, clip_skip: int) -> Tensor:
        """(B, L, D) token states of an earlier layer, as diffusers' pipelines read them with ``clip_skip``.

        Args:
            output: of a CLIP text model, with all hidden states.
            model: the text model. Where the last layer is usual, the states go through its final norm.
            clip_skip: how many layers earlier than usual.
        """
        if self.penultimate:
            return output.hidden_states[-2 - clip_skip]
        inner = getattr(model, "text_model", model)  # transformers 5 keeps the layers in the model itself
        return inner.final_layer_norm(output.hidden_states[-1 - clip_skip])

    def join(self, parts: Sequence[Tensor], dtype: Any) -> Tensor:
        """Joins the parts of a text along the sequence: the CLIPs' states, then T5's.

        Args:
            parts: (B, L_i, D) each.
            dtype: of the model's last CLIP.

        Returns:
            (B, Σ L_i, D).
        """
        import torch

        return torch.cat([states.to(dtype) for states in parts], dim=1)

    def pipeline_kwargs(self, conditioning: Any) -> dict[str, Tensor]:
        """The arguments by which the family's diffusers pipelines take a `longalign.Conditioning`."""
        kwargs = {
            "prompt_embeds": conditioning.embeds,
            "negative_prompt_embeds": conditioning.negative_embeds,
        }
        if conditioning.pooled is not None and conditioning.negative_pooled is not None:
            kwargs["pooled_prompt_embeds"] = conditioning.pooled
            kwargs["negative_pooled_prompt_embeds"] = conditioning.negative_pooled
        return kwargs

    # Denoising

    def schedule(self, scheduler: Any) -> tuple[Parameterisation, Tensor | None]:
        """What the module predicts, and (T,) ᾱ_t of the training schedule (None for flow models).

        Raises:
            LongalignError: the scheduler's prediction type is not supported.
        """
        if self.flow:
            return "flow", None
        kind = scheduler.config.get("prediction_type", "epsilon")
        if kind not in _PREDICTION_TYPES or not hasattr(scheduler, "alphas_cumprod"):
            raise LongalignError(
                f"{type(scheduler).__name__} with prediction type {kind!r} is not supported for {self.title}: use a "
                f"diffusion scheduler with one of the prediction types {', '.join(_PREDICTION_TYPES)}"
            )
        return _PREDICTION_TYPES[kind], scheduler.alphas_cumprod

    def predict(
        self,
        module: Any,
        x: Tensor,
        times: Tensor,
        embeds: Tensor,
        pooled: Tensor | None,
        size_px: tuple[int, int],
        frames: Tensor | None = None,
    ) -> Tensor:
        """One call of the denoising module.

        Args:
            module: the UNet or transformer.
            x: (B, C, h, w) noised latents in the precision of the module.
            times: (B,) from 0 to 1000.
            embeds: (B, L, D) text states in the precision of the module.
            pooled: (B, P) pooled text vectors, or None.
            size_px: (height, width) of the picture.
            frames: (B, 4), as in `longalign.Conditioning`; None where they are not known, or not taken.

        Returns:
            (B, C, h, w).
        """
        return module(x, times, encoder_hidden_states=embeds, return_dict=False)[0]

    def sizes_px(self, module: Any, vae_factor: int) -> tuple[int, int | None]:
        """The side of a picture is a multiple of the first number, and at most the second (None: no limit).

        Args:
            vae_factor: pixels a latent, along one side.
        """
        return vae_factor, None

    # Pixels and latents

    def encode_pixels(self, vae: Any, pixels: Tensor, batch_size: int = 16) -> Tensor:
        """(B, 3, H, W) pixels → (B, C, h, w) float32 latents: `longalign.backbones.latents.encode_pixels`."""
        return encode_pixels(vae, pixels, batch_size)

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents → (B, 3, H, W) pixels in [0, 1]: `longalign.backbones.latents.decode`."""
        return decode(vae, latents)

    # Soft tokens

    def text_width(self, module: Any) -> int:
        """D, the width of the text states at the places of soft tokens.

        Raises:
            LongalignError: the width differs from block to block.
        """
        raise LongalignError(f"{self.title} has no place for soft tokens")

    def token_blocks(self, module: Any, stage: str | None = None) -> list[nn.Module]:
        """The blocks that can have soft tokens before them.

        Args:
            stage: ``down``, ``mid`` or ``up`` of a UNet; None for a transformer.
        """
        raise LongalignError(f"{self.title} has no place for soft tokens")


def tokenizer_name(text_encoder: str) -> str:
    """Name of a text encoder's tokenizer in pipelines: ``text_encoder_2`` → ``tokenizer_2``."""
    return text_encoder.replace("text_encoder", "tokenizer")
