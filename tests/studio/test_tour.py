"""The whole page in a browser, on the sticker models: write, draw, point, compare, repair, check, edit, runs.

`LONGALIGN_SCREENSHOTS=FOLDER` keeps the screenshots; docs/studio-*.webp come from here.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from studio_server import studio

from longalign.studio.folders import Folders
from longalign.worlds import world

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the tour needs playwright: pip install playwright"
)
axe_api = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="the tour needs axe-playwright-python"
)
pytest.importorskip("gradio", reason="the studio needs Gradio: pip install 'longalign[ui]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("the tour needs a browser: apt-get install chromium", allow_module_level=True)

PROMPT = world("stickers").pictures(4, "test", 4, ((9, 9),)).text(3)
WIDE, NARROW = 1280, 390
TALLEST = 1200  # pixels of a screenshot that are kept
SHOTS = os.environ.get("LONGALIGN_SCREENSHOTS")


class Visitor:
    """One browser page, and what it has to complain of."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str) -> None:
        self.address = address
        self.problems: list[str] = []
        self.page = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        ).new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.problems.append(f"another host: {request.url}")

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.address}/{query}")
        self.page.wait_for_selector("#prompt textarea")
        self.page.wait_for_function(
            "document.querySelector('#prompt textarea')?.value?.length > 0 || location.search"
        )

    def look(self, name: str, selector: str | None = None) -> None:
        """No serious finding of axe-core, nothing wider than the window; a screenshot."""
        self.page.wait_for_function("!document.querySelector('.pending')")  # what is being renewed is pale
        for found in axe_api.Axe().run(self.page).response["violations"]:
            if found["impact"] in ("serious", "critical"):
                self.problems += [
                    f"axe, {name}: {found['id']}: {node['html'][:200]}" for node in found["nodes"]
                ]
        if self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"):
            self.problems.append(f"{name}: the page is wider than the window")
        if SHOTS:
            part = self.page if selector is None else self.page.locator(selector)
            shot = Image.open(io.BytesIO(part.screenshot(**({} if selector else {"full_page": True}))))
            shot = shot.convert("RGB").crop((0, 0, shot.width, min(shot.height, TALLEST)))
            shot.save(Path(SHOTS) / f"studio-{name}.webp", quality=85)

    def choose(self, part: str, *names: str) -> None:
        box = self.page.locator(f"{part} input")
        for name in names:
            box.click()
            box.fill(name)
            self.page.get_by_role("option", name=name, exact=True).wait_for()
            self.page.keyboard.press("Enter")
        self.page.keyboard.press("Escape")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def load(self, part: str, file: Path) -> None:
        self.page.locator(f"{part} input[type=file]").set_input_files(str(file))
        self.page.locator(f"{part} img").first.wait_for()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.slow
def test_the_tour(browser: Any, tmp_path: Path) -> None:
    with studio(tmp_path / "runs", "--demo") as running:
        visitor = Visitor(browser, running.address, WIDE, "light")
        page = visitor.page
        visitor.open()
        # Write: the prompt is cut while it is written.
        page.fill("#prompt textarea", "A fox sits here. <b>Bold</b> snow falls.")
        page.locator("#cut li").get_by_text("<b>Bold</b> snow falls.").wait_for()
        assert page.locator("#cut b").count() == 0
        page.fill("#prompt textarea", PROMPT)
        page.locator("#cut .lost").first.wait_for()
        assert page.locator("#cut li").count() == 10 and page.locator("#cut li.gone").count() == 3
        # Draw, beside the plain encoding and a LoRA.
        visitor.choose("#compare", "first 77 tokens (plain)", "LoRA stickers/sft")
        page.click("#draw")
        page.locator("#draw-state progress").wait_for()
        page.locator("#drawing .card").nth(2).wait_for()
        assert page.locator("#drawing .card").count() == 3
        assert page.locator("#drawing .card").nth(1).locator("li.false").count() >= 3
        # Point at a sentence: its map lies over the picture. By the keyboard, too.
        card = page.locator("#drawing .card").first
        sentence = card.locator("button.sentence").nth(2)
        assert card.locator(".map").is_hidden()
        sentence.hover()
        assert card.locator(".map").is_visible()
        visitor.look("draw")
        page.mouse.move(0, 0)
        assert card.locator(".map").is_hidden()
        card.locator("button.sentence").first.focus()
        page.keyboard.press("Tab")
        assert card.locator("button.sentence").nth(1).evaluate("e => e === document.activeElement")
        assert card.locator(".map").is_visible()
        page.keyboard.press("Enter")
        assert card.locator("button.sentence").nth(1).get_attribute("aria-pressed") == "true"
        # The report, and what the page did as a command.
        with page.expect_download() as download:
            page.click("#report")
        assert "Drawn in the studio" in Path(download.value.path()).read_text(encoding="utf-8")
        page.get_by_text("Copy as command").first.click()
        assert page.locator("pre").first.inner_text().startswith("longalign generate ")
        # Repair: the fish that is missing.
        page.click("#repair")
        page.locator("#mended .slider").wait_for()
        assert "Now true: There is a fish in the top centre." in page.locator("#mended").inner_text()
        page.locator("#mended .slider input").focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#mended .slider").get_attribute("style") == "--at: 49%;"
        visitor.look("repair", "#mended")
        [drawn] = running.out.glob("studio-*/images/00-0.png")
        [mended] = running.out.glob("repair-*/images/after.png")
        # Check: the prompt is read from the file.
        visitor.tab("Check")
        visitor.load("#check-picture", drawn)
        page.wait_for_function("document.querySelector('#check-prompt textarea')?.value?.length > 100")
        page.click("#check")
        page.locator("#checked li.false").first.wait_for()
        assert (
            page.locator("#checked li.false")
            .inner_text()
            .split("\n")[-2]
            .endswith("There is a fish in the top centre.")
        )
        visitor.look("check")
        # Edit.
        visitor.tab("Edit")
        visitor.load("#edit-picture", mended)
        page.wait_for_function("document.querySelector('#edit-target textarea')?.value?.length > 100")
        page.fill("#edit-target textarea", PROMPT.replace("crab", "panda"))
        page.click("#edit")
        page.locator("#edited .slider").wait_for()
        visitor.look("edit")
        # Runs, with the report within the page.
        visitor.tab("Runs")
        page.locator("#runs tr").nth(2).wait_for()
        page.locator("#run input").click()
        page.get_by_role("option", name=re.compile("^repair-")).click()
        page.frame_locator("#run-shown iframe").get_by_text("A repaired picture").wait_for()
        visitor.look("runs")
        assert visitor.problems == []
        # A link holds the state; on a phone, in the dark.
        address = page.url.partition("?")[2]
        small = Visitor(browser, running.address, NARROW, "dark")
        small.open(f"?{address}")
        small.page.wait_for_function("document.querySelector('#prompt textarea')?.value?.length > 300")
        assert small.page.input_value("#prompt textarea") == PROMPT
        small.page.locator("#compare").get_by_text("LoRA stickers/sft").wait_for()
        small.look("phone")
        for name in ("Check", "Edit", "Runs"):
            small.tab(name)
            small.page.wait_for_timeout(300)
            small.look(f"phone-{name.lower()}")
        assert small.problems == []
        for width, scheme in ((WIDE, "dark"), (NARROW, "light")):
            other = Visitor(browser, running.address, width, scheme)
            other.open(f"?{address}")
            other.look(f"{scheme}-{width}")
            assert other.problems == []
        # A job that fails says so, and the next one works.
        page.goto(f"{running.address}/?tab=draw&prompt=A+fox.&steps=1000")
        page.wait_for_function("document.querySelector('#prompt textarea')?.value == 'A fox.'")
        page.click("#draw")
        page.locator("#draw-state [role=alert]").wait_for()
        assert "from 1 to 100" in page.locator("#draw-state").inner_text()
        # Killed while it draws: the next start is clean.
        page.goto(f"{running.address}/?tab=draw&prompt=A+fox.&steps=100")
        page.wait_for_function("document.querySelector('#prompt textarea')?.value == 'A fox.'")
        page.click("#draw")
        page.locator("#draw-state progress").wait_for()
        runs = {path.name for path in running.out.iterdir()}
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        made = Folders(running.out)
        assert {path.name for path in running.out.iterdir()} - {made.hidden.name} == {
            name for name in runs if not name.startswith(".")
        }
        made.close()
