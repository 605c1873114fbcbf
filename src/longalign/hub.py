"""Names of models on the Hugging Face hub: one quick look before a library asks for files again and again.

transformers and diffusers try each file of a model several times, with pauses, and then show messages of their own. A
wrong name would take minutes. So a name is looked up here first, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from safetensors import SafetensorError

from longalign.errors import LongalignError
from longalign.plugins import nearest
from longalign.published import how_to_get

TIMEOUT_S = 10.0
# What libraries raise where the files of a model are damaged, or are those of something else.
BROKEN_FILES = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError
)  # fmt: skip
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_on_hub(name: str, file: str, kind: str, known: Iterable[str] = ()) -> bool:
    """Check that the hub, or its cache on this machine, has a model of this name.

    Args:
        name: what a user gave, after embedded names and folders have been looked for.
        file: the file that every model of this kind has, such as ``config.json``.
        kind: of what is looked for, for messages: ``model``, ``preference model``.
        known: embedded names of this kind, for "did you mean".

    Returns:
        whether to load local files alone: True where the model is in the cache and the hub cannot be reached.

    Raises:
        LongalignError: there is no such folder and it is no hub name; or the hub has no such model, does not give it to
            this user, or cannot be reached, and the model is not in the cache.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    named = how_to_get(name)
    if named or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise LongalignError(f"{name}: there is no such model folder{named}")
    names = list(known)
    near = nearest(name, names)
    advice = "" if near is None else f"; did you mean {near!r}?"
    if not _HUB_NAME.fullmatch(name):
        embedded = f", the embedded ones are {', '.join(names)}" if names else ""
        raise LongalignError(
            f"there is no {kind} {name!r}"
            + (advice or f": it is no folder here{embedded}, and a name on the hub has the form OWNER/NAME")
        )
    cached = isinstance(try_to_load_from_cache(name, file), str)
    if constants.HF_HUB_OFFLINE:
        if cached:
            return True
        raise LongalignError(
            f"there is no {kind} {name!r} in the hub's cache on this machine, and HF_HUB_OFFLINE is set{advice}"
        )
    try:
        get_hf_file_metadata(hf_hub_url(name, file), timeout=TIMEOUT_S)
    except GatedRepoError:
        raise LongalignError(
            f"the hub gives {name!r} only to users who have accepted its licence: accept it on the model's page, then "
            "log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise LongalignError(
            f"there is no {kind} {name!r}: neither a folder here nor a public model on the hub{advice}"
        ) from None
    except EntryNotFoundError:
        raise LongalignError(f"{name!r} on the hub has no {file}, so it is no {kind} of this kind") from None
    except Exception as error:  # each version of huggingface_hub has another library of HTTP below it
        if cached:
            return True
        raise LongalignError(
            f"there is no {kind} {name!r} on this machine, and the hub cannot be reached ({reason_of(error)}){advice}"
        ) from error
    return False


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, for messages of this package; its class where it says nothing clear."""
    said = str(error).strip().splitlines()
    if isinstance(error, KeyError):
        return f"{error} is missing in one of its files"
    return said[0] if said else type(error).__name__
