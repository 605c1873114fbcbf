"""The server: the page and its API, files of the folder of runs, and the guard before both."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from longalign.errors import LongalignError
from longalign.studio.folders import Folders
from longalign.studio.guard import Guard
from longalign.studio.settings import StudioConfig, need_gradio
from longalign.studio.stacks import Stacks

# What a browser is given of a run folder. Pages have no scripts, and none that got into one would run.
_KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
}
_PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; sandbox allow-same-origin"
)


def build(config: StudioConfig, folders: Folders, *, example: bool = False) -> Any:
    """The whole application (ASGI).

    Args:
        config: what it offers.
        folders: where its results are.
        example: begin with an example prompt.

    Raises:
        LongalignError: Gradio is not installed.
    """
    need_gradio()
    os.environ["GRADIO_TEMP_DIR"] = str(folders.uploads)
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import FileResponse, PlainTextResponse

    from longalign.studio import theme
    from longalign.studio.page import page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/runs/{name:path}")
    def run_file(name: str) -> Any:
        try:
            path = folders.inside(name)
        except LongalignError as error:
            return PlainTextResponse(str(error), status_code=404)
        kind = _KINDS.get(path.suffix.lower())
        if kind is None or not path.is_file():
            return PlainTextResponse("no such file in the folder of runs", status_code=404)
        policy = {"content-security-policy": _PAGE_POLICY} if path.suffix.lower() == ".html" else {}
        return FileResponse(path, media_type=kind, headers=policy)

    stacks = Stacks(config)
    threading.Thread(target=stacks.warm, daemon=True).start()
    blocks = page(config, stacks, folders, example=example)
    blocks.queue(max_size=config.limits.waiting, default_concurrency_limit=4)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=config.host,
        footer_links=["api"],
        run_history=False,
        show_error=True,
        max_file_size=config.limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme.theme(),
        css=theme.css(),
        head=theme.head(),
        favicon_path=theme.icon(),
    )
    # Gradio checks that files were uploaded; of mounted pages only if this is set. `Folders.uploaded` checks it, too.
    blocks.has_launched = True
    return Guard(app, config)


def serve(
    config: StudioConfig, *, example: bool = False, on_start: Callable[[str], None] = lambda address: None
) -> None:
    """Runs the studio until Ctrl-C.

    Args:
        config: what it offers, and where.
        example: begin with an example prompt.
        on_start: called with the address when it listens.

    Raises:
        LongalignError: Gradio is not installed, the port is taken, or the folder of runs cannot be written.
    """
    need_gradio()
    import uvicorn

    folders = Folders(config.out)
    try:
        with closing(_listening(config)) as listening:
            app = build(config, folders, example=example)
            port = listening.getsockname()[1]
            host = f"[{config.host}]" if ":" in config.host else config.host
            on_start(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}")
            server = uvicorn.Server(
                uvicorn.Config(
                    app, log_level="warning", timeout_graceful_shutdown=3, ws="none", server_header=False
                )
            )
            server.run(sockets=[listening])
    finally:
        folders.close()


def _listening(config: StudioConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((config.host, config.port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise LongalignError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}. Choose another --port "
            "(0 takes a free one)"
        ) from None
    return made
