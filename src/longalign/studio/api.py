"""The endpoints for programs: `/encode`, `/generate`, `/score` and `/edit`, with Gradio's types.

from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
pictures, sentences = client.predict(prompt="…", api_name="/generate")
scores = client.predict(image=handle_file("picture.png"), prompt="…", api_name="/score")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import gradio as gr
from markupsafe import escape

from longalign.studio.check import check_picture
from longalign.studio.context import MODEL, Context, explain
from longalign.studio.draw import DrawJob, draw
from longalign.studio.edit import EditJob, edit_picture
from longalign.studio.stacks import Choice
from longalign.studio.stepping import Done, Progress

Result = TypeVar("Result")


def endpoints(context: Context) -> None:
    """Adds the endpoints to the page that is being built. Their parts are not shown.

    Args:
        context: the studio.
    """
    models = list(context.config.models)

    def encode(prompt: str, model: str, syntax: str) -> dict[str, Any]:
        """Cuts a prompt into sentences, with their tokens and what the plain encoding would lose."""
        try:
            context.limits.text(prompt)
            return context.stacks.cut(prompt, model, syntax).to_json()
        except Exception as error:
            raise _told(error) from None

    def generate(
        prompt: str,
        model: str,
        loras: str,
        soft_tokens: str,
        strategy: str,
        negative_prompt: str,
        steps: float,
        guidance: float,
        seed: float,
        num: float,
        best_of: float,
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Draws pictures of a prompt. Gives the files, and of each picture its seed and its sentences with verdicts.

        Guidance 0 is the model's own. LoRAs are names with commas between them.
        """
        choice = Choice(
            model, tuple(name for name in loras.split(",") if name), soft_tokens or None, strategy
        )
        try:
            job = DrawJob(
                prompt, choice, negative_prompt, (), steps, guidance or None, int(seed), num, best_of, attention=False,  # type: ignore[arg-type]
            )  # fmt: skip
            drawing = _end(draw(job, context.stacks, context.folders, context.limits))
        except Exception as error:
            raise _told(error) from None
        files = [context.folders.to_give(one.file) for one in drawing.shown]
        return files, [one.to_json() for one in drawing.shown]

    def score(image: str | None, prompt: str) -> dict[str, Any]:
        """Judges each sentence of a prompt for a picture. An empty prompt is read from the picture's file."""
        try:
            if not image:
                raise gr.Error("an image is needed")
            return check_picture(
                context.folders.uploaded(image), prompt, context.stacks, context.limits
            ).to_json()
        except gr.Error:
            raise
        except Exception as error:
            raise _told(error) from None

    def edit(
        image: str | None, source: str, target: str, model: str, method: str, steps: float, seed: float
    ) -> tuple[str, dict[str, Any]]:
        """Edits a picture by two texts. Gives the file, and the sentences of the target before and after."""
        try:
            if not image:
                raise gr.Error("an image is needed")
            file = context.folders.uploaded(image)
            job = EditJob(file, source, target, Choice(model), method, steps, None, int(seed))  # type: ignore[arg-type]
            edited = _end(edit_picture(job, context.stacks, context.folders, context.limits))
        except gr.Error:
            raise
        except Exception as error:
            raise _told(error) from None
        return context.folders.to_give(edited.file("after")), edited.to_json()

    turns: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": MODEL}
    with gr.Column(visible=False):
        picture = gr.Image(type="filepath", label="image")
        files = gr.Gallery(label="pictures", type="filepath", format="png")
        edited_file = gr.Image(type="filepath", label="picture", format="png")
        found = gr.JSON(label="result")

        def text(name: str, value: str = "") -> Any:
            return gr.Textbox(value, label=name)

        def number(name: str, value: float) -> Any:
            return gr.Number(value, label=name)

        trigger = gr.Button("api")
        trigger.click(
            encode,
            [text("prompt"), text("model", models[0]), text("syntax", "plain")],
            found,
            api_name="encode",
            concurrency_limit=2,
        )
        trigger.click(
            generate,
            [
                text("prompt"), text("model", models[0]), text("loras"), text("soft_tokens"), text("strategy", "auto"),
                text("negative_prompt"), number("steps", 25), number("guidance", 0), number("seed", 0),
                number("num", 1), number("best_of", 1),
            ],
            [files, found],
            api_name="generate",
            **turns,
        )  # fmt: skip
        trigger.click(score, [picture, text("prompt")], found, api_name="score", **turns)
        trigger.click(
            edit,
            [
                picture, text("source"), text("target"), text("model", models[0]), text("method", "auto"),
                number("steps", 50), number("seed", 0),
            ],
            [edited_file, found],
            api_name="edit",
            **turns,
        )  # fmt: skip


def _end(job: Iterator[Progress | Done[Result]]) -> Result:
    for item in job:
        if isinstance(item, Done):
            return item.result
    raise AssertionError("a job without an end")


def _told(error: Exception) -> gr.Error:
    """The page shows messages of errors as HTML, so what a prompt put into them is made text."""
    return gr.Error(str(escape(explain(error))), print_exception=False)
