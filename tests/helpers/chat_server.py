"""A real HTTP server that answers like an OpenAI-compatible endpoint, or does not."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Reply = tuple[int, str, dict[str, str]]


def said(text: str | None, tokens: tuple[int, int] | None = (100, 1)) -> Reply:
    found: dict[str, Any] = {"choices": [{"message": {"content": text}}]}
    if tokens is not None:
        found["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, json.dumps(found), {}


class Server:
    """Replies to each question by a function; keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.reply: Callable[[int], Reply] = lambda number: said("first")
        self.wait_s = 0.0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.asked.append(body)
                    outer.headers.append(self.headers.get("Authorization", ""))
                    number = len(outer.asked) - 1
                time.sleep(outer.wait_s)
                status, text, headers = (
                    outer.reply(number) if self.path == "/v1/chat/completions" else (404, "", {})
                )
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:  # nobody waits any more
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def shown(self, number: int) -> list[int]:
        """Red values of the two pictures of a question."""
        parts = self.asked[number]["messages"][-1]["content"][1:]
        return [red_of(base64.b64decode(p["image_url"]["url"].partition(",")[2])) for p in parts]


def red_of(png: bytes) -> int:
    return int(Image.open(io.BytesIO(png)).getpixel((0, 0))[0])  # type: ignore[index]
