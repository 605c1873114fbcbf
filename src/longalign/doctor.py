"""What can run on this machine: versions, devices, optional libraries, and the metrics and recipes of the package.

Nothing is downloaded and the network is not asked: hub models count as here if the hub's cache on this machine has
them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import yaml

from longalign.errors import LongalignError
from longalign.hub import reason_of
from longalign.metrics import METRICS
from longalign.metrics.metric import Metric, Tools
from longalign.published import how_to_get
from longalign.recipes import recipe_names, recipe_text, recipe_title
from longalign.report import Table
from longalign.runtime import quiet
from longalign.safe_files import read_shapes
from longalign.worlds import DEFAULT, WORLDS, owner, world

PACKAGES = ("longalign", "torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy")
# import name → (name for pip, what it is for)
LIBRARIES: Mapping[str, tuple[str, str]] = {
    "pyarrow": ("pyarrow", "parquet and Arrow data sets"),
    "datasets": ("datasets", "data sets that Hugging Face's datasets saved"),
    "lpips": ("--no-deps lpips", "the published heads of LPIPS"),
    "faiss": ("faiss-cpu", "retrieval among very many pictures"),
    "gradio": ("gradio", "the page in a browser"),
    "ray": ("ray", "runs on several machines"),
    "pillow_heif": ("pillow-heif", "HEIC pictures of phones"),
    "bs4": ("beautifulsoup4", "PixArt's own cleaning of prompts"),
    "tensorboard": ("tensorboard", "curves of training"),
}
FULL_TRAINING = 4  # weights, gradients and AdamW's two moments
_FLOAT32_BYTES = 4
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_INDEX_FILES = ("model_index.json", "config.json")  # one of which every hub model here has
_TRAINED_WHOLE = ("preference",)  # objectives that train all weights of the model


@dataclass(frozen=True)
class Check:
    """One thing and what it lacks here.

    Attributes:
        name: a library, model, file, metric or recipe.
        what: what it is or is for, in words.
        missing: what has to be got or given first.
        downloads: models that the hub would be asked for.
        weights_bytes: rough memory for its weights, as far as they are here; None: unknown.
    """

    name: str
    what: str
    missing: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()
    weights_bytes: int | None = None

    @property
    def ready(self) -> bool:
        """Whether it works now, without the network."""
        return not self.missing and not self.downloads


@dataclass(frozen=True)
class Memory:
    """Memory of a device or a disk.

    Attributes:
        name: of the device, or the folder.
        free_bytes, total_bytes: None where the system does not say.
    """

    name: str
    free_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`.

    Attributes:
        versions: package → version.
        devices: CPU and accelerators.
        disks: where runs are written, and the hub's cache.
        libraries: optional ones.
        models: embedded ones by kind, and the models and files that recipes name.
        metrics: those of `longalign.metrics.METRICS`.
        recipes: those of `longalign recipes`.
    """

    versions: Mapping[str, str]
    devices: Sequence[Memory]
    disks: Sequence[Memory]
    libraries: Sequence[Check]
    models: Sequence[Check]
    metrics: Sequence[Check]
    recipes: Sequence[Check]

    def to_json(self) -> dict[str, Any]:
        """The content of ``--json``: each check also says whether it is ready."""
        found = dataclasses.asdict(self)
        for part in ("libraries", "models", "metrics", "recipes"):
            for row, check in zip(found[part], getattr(self, part), strict=True):
                row["ready"] = check.ready
        return found

    def tables(self) -> list[Table]:
        """For the terminal: the machine, libraries, metrics, recipes, models."""
        memory = [(m.name, size(m.free_bytes), size(m.total_bytes)) for m in (*self.devices, *self.disks)]
        return [
            Table("Memory", ["", "free", "of"], memory),
            Table("Optional libraries", ["library", "for", "here"], [_row(c) for c in self.libraries]),
            Table("Metrics", ["metric", "needs", "can run"], [_row(c) for c in self.metrics]),
            Table(
                "Recipes",
                ["recipe", "weights", "can run"],
                [(c.name, size(c.weights_bytes), _state(c)) for c in self.recipes],
                note="Weights are in float32; of a model that is trained whole, with gradients and AdamW's moments. "
                "Activations come on top: longalign train NAME --dry-run measures them.",
            ),
            Table("Models and files", ["name", "what", "here"], [_row(c) for c in self.models]),
        ]


def size(count: int | None) -> str:
    """A number of bytes in words, such as ``3.4 GiB``; a dash for None.

    Args:
        count: the bytes.
    """
    if count is None:
        return "—"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def diagnose() -> Diagnosis:
    """Look at this machine and at what is installed. No model of another's is loaded, nothing is downloaded."""
    with _offline():
        recipes, named = _recipes()
        return Diagnosis(
            versions={"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
            devices=_devices(),
            disks=_disks(),
            libraries=[
                Check(name, purpose, () if importlib.util.find_spec(name) else (f"pip install {pip}",))
                for name, (pip, purpose) in LIBRARIES.items()
            ],
            models=[*_embedded(), *named],
            metrics=[_metric(name) for name in METRICS],
            recipes=recipes,
        )


def parameters_in(path: Path) -> int | None:
    """How many parameters the safetensors files of a model have, from their headers; None where there are none.

    Args:
        path: a file, a model folder, or a folder in diffusers' layout, whose parts are summed.

    Raises:
        LongalignError: a file is damaged.
    """
    if path.is_file():
        return _in_files([path]) if path.suffix == ".safetensors" else None
    if (path / "model_index.json").is_file():
        counts = [parameters_in(part) for part in sorted(path.iterdir()) if part.is_dir()]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None
    files = sorted(path.glob("*.safetensors"))
    # A folder may hold the same weights in half precision, or those without averaging, too.
    main = [file for file in files if not re.search(r"\.(fp16|bf16|non_ema)\b", file.name)]
    return _in_files(main or files) if files else None


def _in_files(files: Sequence[Path]) -> int:
    return sum(math.prod(shape) for file in files for shape in read_shapes(file).values())


def _row(check: Check) -> tuple[str, str, str]:
    return check.name, check.what, _state(check)


def _state(check: Check) -> str:
    if check.ready:
        return "yes"
    missing = "; ".join(check.missing)
    downloads = f"from the hub: {', '.join(check.downloads)}" if check.downloads else ""
    return "; ".join(filter(None, (f"no: {missing}" if missing else "", downloads)))


@contextmanager
def _offline() -> Iterator[None]:
    """No question to the hub, as with HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with quiet():
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[Memory]:
    import psutil
    import torch

    ram = psutil.virtual_memory()
    found = [Memory(f"CPU, {os.cpu_count()} cores", ram.available, ram.total)]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Memory(f"cuda:{index}, {torch.cuda.get_device_name(index)}", free, total))
    if torch.backends.mps.is_available():
        found.append(Memory("mps, which shares the CPU's memory", None, None))
    return found


def _disks() -> list[Memory]:
    from huggingface_hub import constants

    found = []
    for what, folder in (("this folder", Path.cwd()), ("the hub's cache", Path(constants.HF_HUB_CACHE))):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        usage = shutil.disk_usage(there)
        found.append(Memory(f"disk of {what}", usage.free, usage.total))
    return found


def _embedded() -> list[Check]:
    """The embedded models of each world, a row a kind."""
    found = []
    for name in WORLDS:
        of_world = world(name)
        models = list(of_world.models)
        kinds = {
            "models": models,
            "LoRAs": [lora for model in models for lora in of_world.lora_names(model)],
            "soft tokens": [tokens for model in models for tokens in of_world.token_names(model)],
            "preference models": of_world.preference_names(),
        }
        found += [
            Check(f"{name}: {kind}", "embedded: " + ", ".join(names))
            for kind, names in kinds.items()
            if names
        ]
    return found


def _locate(name: str) -> Path | None:
    """Where an embedded model, a folder, a file or a cached hub model is; None: not here."""
    of_world = owner(name)
    if of_world is not None:
        if name in of_world.models:
            return of_world.model_folder(name)
        if name in of_world.lora_names(name.partition("/")[0]):
            return of_world.lora_folder(name)
        return of_world.preference_folders(name)[0]
    if Path(name).exists():
        return Path(name)
    if not _is_hub_name(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(name, file) for file in _INDEX_FILES)
    return next((Path(file).parent for file in cached if isinstance(file, str)), None)


def _is_hub_name(name: str) -> bool:
    """Whether it is a hub's name: of the same form are places of published files, such as ``models/denscore``."""
    if name.startswith((".", "~", "/", "data/")) or how_to_get(name):
        return False
    return _HUB_NAME.fullmatch(name) is not None


def _recipes() -> tuple[list[Check], list[Check]]:
    """The recipes, and all models and files that they name, each once."""
    recipes: list[Check] = []
    named: dict[str, Check] = {}
    for name in recipe_names():
        recipe = yaml.safe_load(recipe_text(name))
        data = {text for text in _names_in(recipe.get("data")) if text not in WORLDS}
        weights = {text for key, section in recipe.items() if key != "data" for text in _names_in(section)}
        for text in sorted(weights | data):
            if owner(text) is None:
                named.setdefault(text, _named(text, "data" if text in data else "weights"))
        lacking = [named[text] for text in sorted(weights | data) if text in named]
        recipes.append(
            Check(
                name,
                recipe_title(name),
                tuple(check.name for check in lacking if check.missing),
                tuple(check.name for check in lacking if check.downloads),
                _weights_bytes(recipe, weights),
            )
        )
    return recipes, list(named.values())


def _names_in(value: Any) -> Iterator[str]:
    """The values in a recipe that name something: paths, hub names, names of worlds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _names_in(each)
    elif isinstance(value, str) and (re.fullmatch(r"[\w.-]+(/[\w.-]+)+", value) or value in WORLDS):
        yield value


def _named(name: str, kind: str) -> Check:
    where = _locate(name)
    if where is not None:
        return Check(name, kind, weights_bytes=_float32_bytes(where) if kind == "weights" else None)
    if _is_hub_name(name):
        return Check(name, f"{kind} on the hub", downloads=(f"hf download {name}",))
    return Check(name, kind, missing=(how_to_get(name).removeprefix(": ") or "no such file or folder",))


def _weights_bytes(recipe: Mapping[str, Any], weights: set[str]) -> int | None:
    """Float32 weights of all models; None where one of them is not here or not in safetensors files."""
    total = 0
    for name in weights:
        where = _locate(name)
        count = None if where is None else _float32_bytes(where)
        if count is None:
            return None
        whole = name == recipe.get("model") and recipe.get("objective") in _TRAINED_WHOLE
        total += count * (FULL_TRAINING if whole else 1)
    return total


def _float32_bytes(where: Path) -> int | None:
    try:
        count = parameters_in(where)
    except LongalignError:
        return None
    return None if count is None else count * _FLOAT32_BYTES


def _metric(name: str) -> Check:
    """A metric with its default options, in an evaluation that has what it needs: a reference, features, a world."""
    try:
        kind: type[Metric] = METRICS[name]
        needs = ", ".join(sorted(kind.needs)) or "nothing else"
    except (LongalignError, ImportError, AttributeError) as error:
        return Check(name, "", (reason_of(error),))
    features = cast("Any", SimpleNamespace(name="features", model=None))
    tools = Tools("reference", features, world(DEFAULT), device="cpu")
    try:
        options = kind.Options()
        weights = list(kind.weights(tools, options))
        absent = [model for model in weights if _locate(model) is None]
        # Embedded models are small and are loaded here, and so is what a metric loads without a model. Others are not.
        if all(owner(model) is not None for model in weights):
            kind(tools, options)
    except (LongalignError, ImportError, TypeError, OSError) as error:
        return Check(name, needs, (reason_of(error).removeprefix(f"{name}: "),))
    missing = tuple(f"{model}{how_to_get(model)} is not here" for model in absent if not _is_hub_name(model))
    return Check(name, needs, missing, tuple(model for model in absent if _is_hub_name(model)))
