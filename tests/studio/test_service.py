"""The studio as a service: its endpoints, and who may not use it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from studio_server import Studio, studio

from longalign.studio.guard import Guard
from longalign.studio.settings import StudioConfig
from longalign.worlds import world

pytest.importorskip("gradio", reason="the studio needs Gradio: pip install 'longalign[ui]'")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

PROMPT = world("stickers").pictures(1, "test", 4, ((9, 9),)).text(0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with studio(tmp_path_factory.mktemp("service") / "runs", "--demo", "--max-steps", "30") as found:
        yield found


@pytest.fixture(scope="module")
def client(running: Studio, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(running.address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_the_endpoints(running: Studio, client: Client, tmp_path: Path) -> None:
    """Each of them, and their answers against the library."""
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        "/encode",
        "/generate",
        "/score",
        "/edit",
    }
    cut = client.predict(prompt=PROMPT, api_name="/encode")
    assert len(cut["sentences"]) == 10 and cut["lost"] == 3
    pictures, found = client.predict(prompt=PROMPT, steps=8, seed=3, num=2, api_name="/generate")
    assert [row["seed"] for row in found] == [3, 4] and len(pictures) == 2
    drawn = running.out / found[0]["file"]
    file = pictures[0]["image"]
    assert Image.open(file).tobytes() == Image.open(drawn).tobytes()
    scores = client.predict(
        image=handle_file(str(drawn)), prompt="", api_name="/score"
    )  # its prompt is in the file
    assert scores["prompt"] == PROMPT
    assert [row["verdict"] for row in scores["sentences"]] == [
        row["verdict"] for row in found[0]["sentences"]
    ]
    from longalign import PreferenceModel

    model = PreferenceModel.from_pretrained("stickers")
    segments = model.score([str(drawn)], [PROMPT]).segments[0]
    assert [row["probability"] for row in scores["sentences"]] == pytest.approx(
        [s.probability for s in segments], abs=1e-4
    )
    target = PROMPT.replace("crab", "owl")
    edited, told = client.predict(
        image=handle_file(str(drawn)), source=PROMPT, target=target, steps=6, api_name="/edit"
    )
    assert Image.open(edited).size == (96, 96) and len(told["sentences"]["after"]) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "x" * 1_000_000}, "1,000,000 characters; at most 20,000"),
        ({"prompt": "A fox.", "model": "../../etc/passwd"}, "model"),
        ({"prompt": "A fox.", "model": "evil/pickled-checkpoint"}, "what it was started with"),
        ({"prompt": "A fox.", "loras": "/tmp/evil.bin"}, "LoRA"),
        ({"prompt": "A fox.", "steps": 31}, "from 1 to 30"),
        ({"prompt": "A fox.", "soft_tokens": "<script>alert(1)</script>"}, "&lt;script&gt;"),
    ],
)
def test_wrong_arguments_are_told(client: Client, arguments: dict, message: str) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(**arguments, api_name="/generate")
    assert client.predict(prompt="A fox.", api_name="/encode")["tokens"] > 2  # the others go on


def test_files_that_a_program_names_are_not_read(running: Studio, client: Client, tmp_path: Path) -> None:
    """A path in place of an uploaded file: the server reads none of its own files."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    data = {"path": str(secret), "meta": {"_type": "gradio.FileData"}, "orig_name": "secret.png"}
    [number] = [i for i, d in enumerate(client.config["dependencies"]) if d["api_name"] == "score"]
    with httpx.Client(base_url=running.address, timeout=60) as http:
        joined = http.post(
            "/gradio_api/queue/join",
            json={"data": [data, "A fox."], "fn_index": number, "session_hash": "s1"},
        )
        assert joined.status_code in (200, 422, 500)
        if joined.status_code == 200:
            with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "s1"}) as events:
                for line in events.iter_lines():
                    if "process_completed" in line:
                        assert json.loads(line.removeprefix("data: "))["success"] is False
                        break
        for name in (
            "/gradio_api/file=/etc/passwd",
            f"/gradio_api/file={secret}",
            "/gradio_api/file=../../etc/passwd",
            "/runs/../secret.png",
            "/runs/%2e%2e/secret.png",
            "/runs/..%2fsecret.png",
            f"/runs/{secret}",
            "/runs/.studio/x.png",
            "/gradio_api/proxy=http://example.invalid/",
        ):
            assert http.get(name).status_code in (400, 403, 404), name


def test_links_in_run_folders_lead_nowhere(running: Studio, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    folder = running.out / "linked" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    os.symlink(secret, folder / "link.png")
    Image.new("RGB", (8, 8)).save(folder / "real.png")
    (folder.parent / "page.html").write_text("<script>alert(1)</script>")
    (folder.parent / "code.py").write_text("secret")
    with httpx.Client(base_url=running.address) as http:
        assert http.get("/runs/linked/images/real.png").headers["content-type"] == "image/png"
        assert http.get("/runs/linked/images/link.png").status_code == 404
        assert http.get("/runs/linked/code.py").status_code == 404
        page = http.get("/runs/linked/page.html")
        assert "sandbox" in page.headers["content-security-policy"]  # its script does not run


def test_other_sites_and_large_requests_are_refused(running: Studio) -> None:
    host = running.address.removeprefix("http://")
    with httpx.Client(base_url=running.address, timeout=60) as http:
        join = {"data": ["A fox.", "stickers", "plain"], "fn_index": 0, "session_hash": "x"}
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        ):
            assert http.post("/gradio_api/queue/join", json=join, headers=headers).status_code == 403
        assert http.get("/config", headers={"Host": "evil.example"}).status_code == 421  # DNS rebinding
        assert http.get("/", headers={"Origin": f"http://{host}"}).status_code == 200
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert http.get("/?tab=draw&prompt=A+fox.", headers=link).status_code == 200  # a link to the page
        assert http.post("/gradio_api/queue/join", content=b" " * (40 * 2**20)).status_code == 413

        def endless() -> Iterator[bytes]:
            for _ in range(40):
                yield b" " * 2**20

        with suppress(httpx.HTTPError):  # it may hang up
            assert http.post("/gradio_api/upload", content=endless()).status_code >= 400
        assert http.get("/").status_code == 200
        policy = http.get("/").headers["content-security-policy"]
        assert "default-src 'self'" in policy and "connect-src 'self'" in policy


def test_a_password() -> None:
    """The guard alone, before an application that says yes to everything."""
    told = {"Authorization": "Basic " + base64.b64encode(b"me:se:cret").decode()}

    async def yes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})

    async def ask(guard: Guard, url: str, headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard)) as http:
            return await http.get(url, headers=headers)

    guard = Guard(yes, StudioConfig(host="0.0.0.0", auth="me:se:cret"))
    here = "http://127.0.0.1:7860/"
    for headers in (
        {},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Basic !"},
        {"Authorization": "x"},
    ):
        answer = asyncio.run(ask(guard, here, headers))
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
    for url in (here, "http://192.0.2.7:7860/", "http://my-machine:7860/"):
        assert asyncio.run(ask(guard, url, told)).status_code == 200
    assert asyncio.run(ask(guard, here, {**told, "Origin": "http://evil.example"})).status_code == 403
    alone = Guard(yes, StudioConfig())
    assert asyncio.run(ask(alone, here, {})).status_code == 200
    assert asyncio.run(ask(alone, "http://192.0.2.7:7860/", {})).status_code == 421


def test_without_gradio_the_message_says_what_to_install(tmp_path: Path) -> None:
    hidden = tmp_path / "gradio.py"
    hidden.write_text("raise ImportError")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "longalign", "studio"],
        env=env,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 2 and "pip install 'longalign[ui]'" in done.stderr


def test_a_port_that_is_taken(running: Studio, tmp_path: Path) -> None:
    from longalign.errors import LongalignError
    from longalign.studio.server import serve

    port = int(running.address.rpartition(":")[2])
    with pytest.raises(LongalignError, match="Choose another --port"):
        serve(StudioConfig(out=tmp_path / "runs", port=port))
