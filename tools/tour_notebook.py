"""examples/tour.ipynb: its cells, run, with their outputs.

    python tools/tour_notebook.py

Needs nbclient and ipykernel. The cells are below; the notebook is never edited by hand.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FILE = Path(__file__).resolve().parent.parent / "examples" / "tour.ipynb"

CELLS = [
    """# longalign in five minutes

Text-to-image models read the first 77 tokens of a prompt. This notebook shows how to make them read all of it, and how
to find out what of it is in the picture. It runs on a small model in the package, which draws scenes of stickers: no
GPU, no downloads. With your own model only the first cell changes.""",
    """>import longalign

pipe = longalign.load_pipeline("stickers")  # or a diffusers pipeline of SD 1.x, 2.x, SDXL or SD3

prompt = (
    "The background is beige. There is a panda on a blue disc in the top left. In the top right there is a star on a "
    "purple disc. The middle shows a heart on a red disc. There is a carrot on a yellow disc in the middle left. In "
    "the bottom centre there is a butterfly on a purple disc. A crab on a blue disc is in the bottom right. There is "
    "a rocket on a yellow disc in the middle right."
)""",
    """## Encode

`encode` takes prompts of any length. A prompt that fits the window is encoded as the pipeline encodes it. A longer one
is cut into sentences; each sentence is encoded by itself, and the encodings are joined (LongAlign,
[arXiv 2410.11817](https://arxiv.org/abs/2410.11817)).""",
    """>cond = longalign.encode(pipe, prompt)
print(cond)
for segment in cond.segments[0]:
    print("-", segment.text)""",
    """## What does not fit

`strategy="plain"` is the pipeline's own encoding. It reads 77 tokens and says nothing. `encode` tells what was cut, as
a warning and in `truncation`.""",
    """>import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", longalign.TruncationWarning)
    plain = longalign.encode(pipe, prompt, strategy="plain")

[cut] = plain.truncation[0]
print("Not read:", cut.text)""",
    """## Draw

`pipeline_kwargs()` are the arguments of the pipeline. All other arguments are those of diffusers. From the first 77
tokens (left) some stickers are missing; from all sentences (right) they are there.""",
    """>import torch
from PIL import Image


def draw(pipe, cond, count=1):
    options = {
        "num_inference_steps": 12,
        "guidance_scale": 2.0,
        "generator": torch.Generator().manual_seed(0),
    }
    return [image.convert("RGB") for image in pipe(**cond.pipeline_kwargs(count), **options).images]


def side_by_side(*pictures):
    sheet = Image.new("RGB", (200 * len(pictures) - 8, 192), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((192, 192)), (200 * i, 0))
    return sheet.quantize(96)


[first_77], [whole] = draw(pipe, plain), draw(pipe, cond)
side_by_side(first_77, whole)""",
    """## Which sentence does a picture get wrong?

A preference model scores each sentence against the picture. This one has a calibration, so it also says how sure it is
that a sentence is true.""",
    """>model = longalign.PreferenceModel.from_pretrained("stickers")  # or Denscore, PickScore, HPSv2, any CLIP
scores = model.score([first_77, whole], prompt)

for left, right in zip(*scores.segments, strict=True):
    print(f"{left.verdict:9} {right.verdict:9} {left.text}")""",
    """## A LoRA

LoRAs that were trained on long captions know how their texts were encoded: `encode` follows them. Files of kohya,
A1111, diffusers and peft work, too. Here the base model draws a crowded scene four times, and so does the model with
the LoRA. (One scene shows little; README has 500.)""",
    """>tuned = longalign.load_pipeline("stickers", loras=["stickers/sft"])

crowded = (
    "The middle left shows a pig. A frog is in the middle right. A rocket on a red disc is in the top left. A car on a "
    "red disc is in the middle. A banana on a red disc is in the top right. A turtle on a yellow disc is in the bottom "
    "centre. You can see a mushroom in the bottom right. The background is white. There is a house in the bottom left. "
    "There is a sunflower on a red disc in the top centre."
)
drawn = {}
for name, model_pipe in (("base model", pipe), ("with LoRA", tuned)):
    drawn[name] = draw(model_pipe, longalign.encode(model_pipe, crowded), count=4)
    judged = model.score(drawn[name], crowded).segments
    true = sum(segment.verdict == "true" for picture in judged for segment in picture)
    print(f"{name}: {true} of {sum(map(len, judged))} sentences are true")
side_by_side(drawn["base model"][2], drawn["with LoRA"][2])""",
    """## Edit

Two texts, of any length: what the picture shows, and what it is to show. What the texts share stays.""",
    """>target = prompt.replace("A crab on", "A frog on")
result = longalign.edit(tuned, whole, prompt, target, steps=12)
side_by_side(whole, result.image)""",
    """## Next

- On the command line: `longalign generate`, `longalign score`, `longalign edit`, each with `--help`, and
  `longalign demo`, which draws 16 scenes and reports on every sentence.
- img2img, inpainting and ControlNet with long prompts: the scripts beside this notebook.
- Fine-tuning on your pictures: `longalign train`, and the documents in `docs/`.""",
]


def notebook() -> nbformat.NotebookNode:
    """The cells, without outputs."""
    cells = []
    for number, text in enumerate(CELLS):
        new = nbformat.v4.new_code_cell if text.startswith(">") else nbformat.v4.new_markdown_cell
        cells.append(new(text.removeprefix(">"), id=f"tour-{number}"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs the cells in a new kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    NotebookClient(made, timeout=300, kernel_name="python3", record_timing=False).execute()
    return made


def main() -> None:
    """Writes the notebook with its outputs."""
    made = run(notebook())
    for cell in made.cells:  # warnings have paths of this machine
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    made.metadata.pop("language_info", None)  # has the version of Python
    nbformat.validate(made)
    nbformat.write(made, FILE)


if __name__ == "__main__":
    main()
