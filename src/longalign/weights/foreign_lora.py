"""LoRA files of other tools, read by diffusers' own converters: kohya (A1111, Forge), old diffusers, peft with alpha.

diffusers puts the file on the pipeline. The factors and scales are then read off its layers and taken away again, so
that the result is that of diffusers. What is stored is up · alpha / r; ranks are filled up with zeros to the largest.

Never read: pickles that hold more than tensors, LyCORIS kinds that are no product of two matrices, and files with
numbers that are not finite.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from longalign.backbones import BACKBONES, backbone_named, backbone_of, denoising_module
from longalign.errors import LongalignError
from longalign.runtime import quiet
from longalign.safe_files import read_pickle, read_shapes, read_tensors
from longalign.weights.lora import attached, merge
from longalign.weights.lora_file import FILE_NAME, TEXT_ENCODERS, LoraFile, Pair, check_layers

_NAME = "longalign_foreign"  # of the adapter while it is on the pipeline
_LYCORIS = {
    ".hada_w1_a": "LoHa",
    ".lokr_w1": "LoKr",
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".on_input": "IA³",
    ".a1.weight": "GLoRA",
    ".w_norm": "norm differences",
    ".diff_b": "full differences",
    ".diff": "full differences",
    ".lora_mid.weight": "LoCon with Tucker decomposition",
}
_DOWN = re.compile(r"\.lora_A\.|\.lora_down\.|_lora\.down\.|_layer\.down\.|\.lora\.down\.")
_UP = re.compile(r"\.lora_B\.|\.lora_up\.|_lora\.up\.|_layer\.up\.|\.lora\.up\.")
_BESIDE = re.compile(r"(?:\.alpha|\.dora_scale|\.lora_magnitude_vector(?:\.weight)?|\.lora_[AB]\.bias)$")
# text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight, ….mlp.fc1.lora_linear_layer.down.weight
_OLD_TEXT = re.compile(
    r"(?P<encoder>text_encoder(?:_2)?)\.(?P<layer>.+?)"
    r"\.(?:to_(?P<kind>q|k|v|out)_lora|lora_linear_layer)\.(?P<down>down)\.weight"
)
_FLUX_KEYS = re.compile(r"(?:double|single)_blocks|single_transformer_blocks")
_TEXT_KEY = re.compile(r"attn2[._](?:processor\.)?to_k[._](?:lora_A|lora_down|lora\.down)\.")
_TEXT_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}
_SDXL_KEYS = re.compile(r"lora_te2_|^text_encoder_2\.|lora_unet_(?:input|output|middle)_block")
_SD3_KEYS = re.compile(r"^transformer\.|^lora_(?:transformer|unet_joint_blocks)_")


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a LoRA file and its metadata. A folder may hold one safetensors file of any name.

    Raises:
        LongalignError: no such file; several; damaged; code in a pickle; no tensors.
    """
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        found = read_pickle(path)
        if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
            raise LongalignError(f"{path}: holds no named matrices, so it is no LoRA file of another tool")
        return dict(found), {}
    return read_tensors(path)


def check_kind(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check what a file holds, before it is put on a model.

    Raises:
        LongalignError: a LyCORIS kind that cannot be read; numbers that are not finite; tensors that are no part of a
            LoRA; or a matrix without its other half. Each is named.
    """
    for key in tensors:
        for end, kind in _LYCORIS.items():
            if key.endswith(end) or f"{end}_" in key:
                raise LongalignError(
                    f"{path}: is a LyCORIS file of the kind {kind} (it has {key!r}), which cannot be read as a LoRA. "
                    "Merge it into its model with LyCORIS' own tools, and name the merged model by --model"
                )
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise LongalignError(f"{path}: {key!r} has numbers that are not finite: the file is spoilt")
    halves: tuple[dict[str, str], dict[str, str]] = ({}, {})
    others = []
    for key in tensors:
        if _BESIDE.search(key):
            continue
        for found, pattern in zip(halves, (_DOWN, _UP), strict=True):
            if pattern.search(key):
                found[pattern.sub("*", key)] = key
                break
        else:
            others.append(key)
    if others:
        raise LongalignError(
            f"{path}: {others[0]!r} is no part of a LoRA"
            + (f", nor are {len(others) - 1} other tensors" if others[1:] else "")
            + ": it would be left out. Take it out of the file if the rest is wanted"
        )
    if alone := halves[0].keys() ^ halves[1].keys():
        key = next(found[stem] for stem in sorted(alone) for found in halves if stem in found)
        raise LongalignError(f"{path}: {key!r} has no other half: a LoRA has two matrices a layer")


def family_of(keys: Iterable[str]) -> str | None:
    """The family that a file is for, as far as its names say so."""
    names = list(keys)
    for family, pattern in (("sdxl", _SDXL_KEYS), ("sd3", _SD3_KEYS)):
        if any(pattern.search(name) for name in names):
            return family
    return None


def read_foreign(path: Path, pipe: Any, base_name: str = "") -> dict[str, LoraFile]:
    """A LoRA file of another tool → component → its LoRA, for a pipeline of the model that it is for.

    Args:
        path: a file.
        pipe: a diffusers pipeline with `load_lora_weights`. It is left as it was.
        base_name: what to call the model in messages.

    Raises:
        LongalignError: see the module; the file is for another model; it is a DoRA; or a part of it fits nothing.
    """
    tensors, _ = read_file(path)
    check_kind(path, tensors)
    _check_family(path, tensors, pipe, base_name)
    parts = _parts(pipe)
    before = {name: list(getattr(module, "peft_config", {})) for name, module in parts.items()}
    try:
        text = load(pipe, path, tensors, base_name)
        found = {name: {**_taken(module, path), **text.get(name, {})} for name, module in parts.items()}
    finally:
        for name, module in parts.items():
            _take_off(module, before[name])
    files = {name: _file(name, layers) for name, layers in found.items() if layers}
    _check_count(path, sum(len(layers) for layers in found.values()), tensors, pipe, base_name)
    if scales := sum(key.endswith(".dora_scale") for key in tensors):
        warnings.warn(
            f"{path}: has the lengths of {scales} layers in kohya's notation of DoRA (dora_scale). They are left out, "
            "as diffusers does, so pictures differ from those of A1111 and ComfyUI",
            stacklevel=3,
        )
    for name, file in files.items():
        check_layers(file, parts[name], str(path))
    return files


def load(
    pipe: Any, path: Path, tensors: Mapping[str, Tensor], base_name: str = "", name: str = _NAME
) -> dict[str, dict[str, Pair]]:
    """Puts a file that was read already on a pipeline, with errors that say what is wrong.

    Returns:
        text encoder → its layers, which are not on the pipeline: diffusers 0.42 drops the attention layers of kohya's
        and of old files, since it takes them for unknown ones of transformers 5.
    """
    if not hasattr(pipe, "load_lora_weights"):
        raise LongalignError(f"{path}: a {type(pipe).__name__} takes no LoRAs")
    source: Any = _prefixed(pipe, tensors)
    if source is tensors and path.suffix == ".safetensors":
        source = str(path.resolve())  # with its metadata
    old = not any(".lora_A." in key for key in tensors) and backbone_of(pipe).component == "unet"
    try:
        with quiet(), warnings.catch_warnings():
            # Several adapters are intended; layers that match nothing are counted by `read_foreign`.
            warnings.filterwarnings(
                "ignore", "Already found a `peft_config`|The following (rank|alpha)_pattern"
            )
            if not old:
                pipe.load_lora_weights(source, adapter_name=name, low_cpu_mem_usage=False)
                return {}
            state, alphas = pipe.lora_state_dict(source, unet_config=pipe.unet.config)
            text = {key: state.pop(key) for key in list(state) if key.startswith("text_encoder")}
            if state:
                pipe.load_lora_into_unet(state, alphas, pipe.unet, name, _pipeline=pipe)
            return _text_layers(text, alphas or {}, pipe)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LongalignError(
            f"{path}: does not load into {base_name or 'this model'}, a {backbone_of(pipe).title}: {reason}"
        ) from error


def _text_layers(
    state: Mapping[str, Tensor], alphas: Mapping[str, float], pipe: Any
) -> dict[str, dict[str, Pair]]:
    """diffusers' old names of text layers → ours; alpha / r is in `up`."""
    found: dict[str, dict[str, Pair]] = {}
    for key, down in state.items():
        if (match := _OLD_TEXT.fullmatch(key)) is None:
            continue
        encoder, layer = match["encoder"], match["layer"]
        if match["kind"]:
            layer = f"{layer}.{match['kind']}_proj"
        if not hasattr(getattr(pipe, encoder), "text_model"):  # transformers 5
            layer = layer.removeprefix("text_model.")
        up = state[f"{key[: match.start('down')]}up{key[match.end('down') :]}"].float()
        alpha = next((a for k, a in alphas.items() if k.startswith(key[: match.start("down")])), None)
        scale = 1.0 if alpha is None else float(alpha) / len(down)
        found.setdefault(encoder, {})[layer] = Pair(up * scale, down.float())
    return found


def _prefixed(pipe: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """With the component's name before each key, where an old file leaves it out."""
    component = backbone_of(pipe).component
    known = (component, "unet", "transformer", *TEXT_ENCODERS, "lora_")
    if any(key.startswith(known) for key in tensors):
        return tensors
    return {f"{component}.{key}": tensor for key, tensor in tensors.items()}


def _check_family(path: Path, tensors: Mapping[str, Tensor], pipe: Any, base_name: str) -> None:
    own, here = backbone_of(pipe), base_name or "this model"
    if any(_FLUX_KEYS.search(key) for key in tensors):
        raise LongalignError(
            f"{path}: is a LoRA for Flux, which longalign does not know, and {here} is {own.title}"
        )
    family = family_of(tensors)
    # A file of SDXL names its parts; one of SD1.5 has nothing that SDXL's may not have, and its shapes decide.
    if family is not None and family != own.family and family in BACKBONES:
        raise LongalignError(
            f"{path}: is a LoRA for {backbone_named(family).title}, and {here} is "
            f"{own.title}: give it with a model of its own family"
        )
    if family == "sd3" and any(key.startswith("lora_") for key in tensors):
        raise LongalignError(
            f"{path}: has kohya's names of SD3, which diffusers does not convert: convert the file to diffusers' names "
            "(transformer.….lora_A.weight) with the tool that wrote it"
        )
    width = getattr(denoising_module(pipe).config, "cross_attention_dim", None)
    theirs = next((t.shape[1] for key, t in tensors.items() if _TEXT_KEY.search(key)), None)
    if isinstance(width, int) and theirs is not None and theirs != width:
        known = f" ({_TEXT_WIDTHS[theirs]})" if theirs in _TEXT_WIDTHS else ""
        raise LongalignError(
            f"{path}: is a LoRA for a model with texts of width {theirs}{known}, and {here} is {own.title} with texts "
            f"of width {width}: give it with a model of its own family"
        )


def _check_count(path: Path, loaded: int, tensors: Mapping[str, Tensor], pipe: Any, base_name: str) -> None:
    wanted = sum(bool(_DOWN.search(key)) for key in tensors)
    if loaded < wanted or not loaded:
        raise LongalignError(
            f"{path}: {loaded} of its {wanted} layers fit {base_name or 'this model'}, a "
            f"{backbone_of(pipe).title}: is it a LoRA for another model?"
        )


def _parts(pipe: Any) -> dict[str, Any]:
    own = {backbone_of(pipe).component: denoising_module(pipe)}
    return own | {name: part for name in TEXT_ENCODERS if (part := getattr(pipe, name, None)) is not None}


def _taken(module: nn.Module, path: Path) -> dict[str, Pair]:
    """Name of a layer → its factors, with the scale in `up`, in the dtype of the layer."""
    found: dict[str, Pair] = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, LoraLayer) or _NAME not in layer.lora_A:
            continue
        if layer.use_dora.get(_NAME):
            raise LongalignError(
                f"{path}: is a DoRA, which changes the length of weights and not only their direction: it works on a "
                "model (--lora), but cannot be written as a LoRA"
            )
        if layer.lora_bias.get(_NAME):
            raise LongalignError(f"{path}: {name} has a bias, which a LoRA here has not")
        up, down = layer.lora_B[_NAME].weight, layer.lora_A[_NAME].weight
        found[name] = Pair(
            (up.detach().float() * layer.scaling[_NAME]).clone(), down.detach().float().clone()
        )
    return found


def _take_off(module: Any, keep: list[str]) -> None:
    if _NAME not in getattr(module, "peft_config", {}):
        return
    if keep:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
            module.delete_adapters([_NAME])
        module.set_adapter(keep)
        return
    from diffusers.utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(module)
    del module.peft_config
    module._hf_peft_config_loaded = False


def _file(component: str, layers: Mapping[str, Pair]) -> LoraFile:
    """All layers with one rank: that of the largest; the others are filled up with zeros."""
    rank = max(pair.down.shape[0] for pair in layers.values())
    return LoraFile(
        {name: _padded(pair, rank) for name, pair in layers.items()},
        TEXT_ENCODERS[0] if component in TEXT_ENCODERS else component,
    )


def _padded(pair: Pair, rank: int) -> Pair:
    missing = rank - pair.down.shape[0]
    if not missing:
        return pair
    up = pair.up.new_zeros(len(pair.up), missing, *pair.up.shape[2:])
    down = pair.down.new_zeros(missing, *pair.down.shape[1:])
    return Pair(torch.cat([pair.up, up], dim=1), torch.cat([pair.down, down]))


def is_dora(path: Path) -> bool:
    """Whether a file, or that of a folder, is a DoRA as peft writes it; kohya's are read as diffusers reads them."""
    path = path / FILE_NAME if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return any("lora_magnitude_vector" in key for key in read_shapes(path))


@torch.no_grad()
def merge_dora(pipe: Any, path: Path, weight: float = 1.0, base_name: str = "") -> None:
    """W ← m (W + ΔW) / ‖W + ΔW‖ on a pipeline, by peft; LoRAs that are on it already are merged first.

    Raises:
        LongalignError: as `read_foreign`.
    """
    path = path / FILE_NAME if path.is_dir() else path
    tensors, _ = read_file(path)
    check_kind(path, tensors)
    _check_family(path, tensors, pipe, base_name)
    for module in _parts(pipe).values():
        if attached(module):
            merge(module)
    try:
        load(pipe, path, tensors, base_name)
        modules = [layer for module in _parts(pipe).values() for layer in module.modules()]
        layers = [layer for layer in modules if isinstance(layer, LoraLayer) and _NAME in layer.lora_A]
        _check_count(path, len(layers), tensors, pipe, base_name)
        for layer in layers:
            layer.set_scale(_NAME, weight)
            layer.merge(adapter_names=[_NAME])
    finally:
        for module in _parts(pipe).values():
            _take_off(module, [])
