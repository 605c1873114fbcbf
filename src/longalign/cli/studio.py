"""`longalign studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import Device, Dtype, Loras


def studio(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that the page offers, beside the embedded ones: a diffusers folder or a hub name. Repeat for "
            "more; the first one is chosen at the beginning."
        ),
    ] = None,
    lora: Loras = None,
    soft_tokens: Annotated[
        list[str] | None,
        typer.Option("--soft-tokens", help="Soft tokens that the page offers. Repeat for more."),
    ] = None,
    scorer: Annotated[
        str, typer.Option(help="Preference model that judges sentences; none: none does.")
    ] = "stickers",
    demo: Annotated[
        bool, typer.Option("--demo", help="The embedded models alone, with an example prompt.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of runs. Nothing outside it is read or written.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine with --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    auth: Annotated[
        str | None, typer.Option(help="USER:PASSWORD that everybody has to know.", envvar="LONGALIGN_AUTH")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    keep: Annotated[int, typer.Option(min=1, help="Loaded models that are kept in memory.")] = 4,
    max_side: Annotated[int, typer.Option(min=64, help="Longest side of a picture, in pixels.")] = 2048,
    max_steps: Annotated[int, typer.Option(min=1, help="Most sampling steps of a job.")] = 100,
    max_pictures: Annotated[int, typer.Option(min=1, help="Most pictures of a job.")] = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Open the tool in a browser, on this machine: write, draw, check, edit, and look at runs.

    Needs `pip install 'longalign[ui]'`. Nothing is fetched from or sent to another machine. Examples:

        longalign studio --demo

        longalign studio --model stable-diffusion-v1-5/stable-diffusion-v1-5 --lora style.safetensors

        longalign studio --host 0.0.0.0 --auth me:secret
    """
    import webbrowser

    from longalign.studio.settings import Limits, StudioConfig, need_gradio
    from longalign.worlds import WORLDS, world

    embedded = [name for of in WORLDS for name in world(of).models]
    chosen = [] if demo else list(model or [])
    config = StudioConfig(
        models=tuple(dict.fromkeys([*chosen, *embedded])),
        loras=() if demo else tuple(lora or ()),
        soft_tokens=() if demo else tuple(soft_tokens or ()),
        scorer=None if scorer == "none" else scorer,
        out=out,
        host=host,
        port=port,
        auth=auth,
        keep=keep,
        device=device,
        dtype=dtype,
        limits=Limits(side_px=max_side, steps=max_steps, pictures=max_pictures),
    )
    need_gradio()  # before what takes longer to import
    from longalign.studio.server import serve

    def started(address: str) -> None:
        print(f"longalign studio: {address}  (Ctrl-C ends it; results are in {config.out})", flush=True)
        if browser:
            webbrowser.open(address)

    serve(config, example=demo or not chosen, on_start=started)
