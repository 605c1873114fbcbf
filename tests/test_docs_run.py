"""The code of README and docs/ runs: every block of Python, and the commands of blocks marked ``<!-- run -->``.

Each document runs from its first block to its last, in a folder of its own, in this process. Names on the hub
are replaced by the embedded models, and a GPU by the CPU. A block that cannot run says why: ``<!-- not run: WHY -->``.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from documents import DOCUMENTS
from typer.testing import CliRunner

from longalign import stickers
from longalign.cli.main import app

_BLOCK = re.compile(r"(?:^<!-- ((?:not )?run)(: [^>]*)? -->\n)?^```(\w*)\n(.*?)^```", re.M | re.S)
PROMPT = "The background is navy. A fox is in the top left. A cake is in the centre."


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """``python``, ``bash`` or ``yaml``, and the code, of each block that runs, or is a file (``# FILE.yaml``)."""
    for mark, _, language, code in _BLOCK.findall(text):
        file = language == "yaml" and re.match(r"# \S+\.yaml\n", code)
        if (language == "python" and mark != "not run") or mark == "run" or file:
            yield language, code


def replaced(code: str) -> str:
    """With what is here in place of what would have to be downloaded, or needs a GPU."""
    hub = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": stickers.folder(),
        "stabilityai/stable-diffusion-xl-base-1.0": stickers.folder("sdxl"),
        "stabilityai/stable-diffusion-3-medium-diffusers": stickers.folder("sd3"),
        "yuvalkirstain/PickScore_v1": "stickers/pickscore",
    }
    for name, here in hub.items():
        code = code.replace(name, str(here))
    code = code.replace("torch.float16", "torch.float32").replace(', "…"', ', "t5"')
    return re.sub(r"\b(num_inference_steps=|steps=|--steps )(?:4|8|12|25)\b", r"\g<1>2", code)


def run_commands(code: str) -> None:
    joined = re.sub(r"\\\n\s*", " ", replaced(code))
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "longalign", line
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


PAGES = [file for file in DOCUMENTS if any(blocks(file.read_text("utf-8")))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents take for granted: a picture, a prompt, a LoRA, T5, and a folder of captioned pictures."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "prompt.txt").write_text(PROMPT + "\n")
    (folder / "prompts.txt").write_text(f"{PROMPT}\nA fox is in the centre.\n")
    for part in ("t5", "t5_tokenizer"):
        shutil.copytree(stickers.folder() / part, folder / "t5", dirs_exist_ok=True)
    for line in (
        f"stickers render --out {folder / 'my-pictures'} --count 4 --objects 5-7",
        f"export stickers/sft --format kohya --out {folder / 'style.safetensors'}",
    ):
        assert CliRunner().invoke(app, line.split()).exit_code == 0, line
    first, second = sorted((folder / "my-pictures").glob("*.png"))[:2]
    shutil.copy(first, folder / "picture.png")
    shutil.copy(second, folder / "other.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_document_runs(
    page: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", lambda self: None)
    # README's own example speaks of these
    names: dict[str, Any] = {"prompt": PROMPT, "prompts": [PROMPT], "images": ["picture.png"]}
    for language, code in blocks(page.read_text("utf-8")):
        if language == "python":
            exec(compile(replaced(code), page.name, "exec"), names)
        elif language == "yaml":
            Path(code.split()[1]).write_text(code)
        else:
            run_commands(code)


def test_what_runs_is_found() -> None:
    text = "```python\na\n```\n\n<!-- not run: why -->\n```python\nb\n```\n\n"
    text += "<!-- run -->\n```bash\nc\n```\n\n```bash\nd\n```\n"
    assert list(blocks(text)) == [("python", "a\n"), ("bash", "c\n")]
    assert len(PAGES) > 8
