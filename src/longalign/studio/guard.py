"""Who may ask the studio: this page alone, and with `--auth` whoever knows the password; and how much they may send.

A page of another site that the user has open can send requests to the user's own machine. Browsers say where a request
comes from (`Origin`, `Sec-Fetch-Site`) and which name was asked for (`Host`). Requests from elsewhere are refused.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from longalign.studio.settings import LOOPBACK, StudioConfig

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The page may ask this server alone. Its scripts are Gradio's, which needs both of the `unsafe` words.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'self'; "
    "base-uri 'self'; object-src 'none'; form-action 'self'"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"SAMEORIGIN",
}
_SLACK_BYTES = 2**20  # what a form adds to the file in it


class Guard:
    """ASGI middleware that refuses requests from elsewhere, without the password, or that are too large.

    Args:
        app: what is guarded.
        config: where the studio listens, its password, its limits.
    """

    def __init__(self, app: App, config: StudioConfig) -> None:
        self.app, self.config = app, config
        self.most = config.limits.upload_bytes + _SLACK_BYTES
        self.wanted = None if config.auth is None else config.auth.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no web sockets
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        counted = 0
        too_much = False

        async def bounded() -> Message:
            nonlocal counted, too_much
            message = await receive()
            counted += len(message.get("body", b""))
            if counted > self.most:
                too_much = True
                return {"type": "http.disconnect"}
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in own]
                if b"content-security-policy" not in own:
                    added.append((b"content-security-policy", POLICY.encode()))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self.app(scope, bounded, with_headers)

    def _refusal(
        self, scope: Scope, headers: dict[bytes, bytes]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        """Status, reason and headers of the answer to a request that may not pass."""
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._known(host):
            return 421, f"this studio is not {host[:100]!r}", []
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc != host:
            return 403, "requests from other sites are refused", []
        site = headers.get(b"sec-fetch-site", b"none")
        navigating = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        if site in (b"cross-site", b"same-site") and not (navigating and scope["path"] == "/"):
            return 403, "requests from other sites are refused", []
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most:
            return 413, f"at most {self.most:,} bytes are accepted", []
        if self.wanted is not None and not _says(headers.get(b"authorization", b""), self.wanted):
            return (
                401,
                "name and password are needed",
                [(b"www-authenticate", b'Basic realm="longalign studio"')],
            )
        return None

    def _known(self, host: str) -> bool:
        """Is this one of our names? Another name that leads here is a trick (DNS rebinding). With a password any name
        will do, since that page does not know the password."""
        name = urlsplit(f"//{host}").hostname or ""
        if name in (*LOOPBACK, self.config.host):
            return True
        if self.config.auth is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return bool(name)
        return True


def _says(header: bytes, wanted: bytes) -> bool:
    kind, _, told = header.partition(b" ")
    if kind.lower() != b"basic":
        return False
    try:
        return secrets.compare_digest(base64.b64decode(told, validate=True), wanted)
    except (binascii.Error, ValueError):
        return False


async def _answer(send: Send, status: int, reason: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = reason.encode()
    shown = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*shown, *headers, *_HEADERS.items()]}
    )
    await send({"type": "http.response.body", "body": body})
