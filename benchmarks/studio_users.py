"""Many users of one studio: is any accepted job lost, are the answers right, does its memory stay flat?

    python benchmarks/studio_users.py                              # 50 users for 3 minutes
    python benchmarks/studio_users.py --users 5 --seconds 20

It starts a studio on a free port of this machine's loopback, with the embedded models. Each user is a thread with a
client of Gradio's. In turns it cuts a prompt, draws a picture of 4 steps, has a picture checked, and every tenth time
asks for something that is refused. Users stop asking after the given time and wait for what is still in the queue.

An answer is right if it equals the library's: the sentences of the cut, the pixels of the picture (the same prompt and
seed drawn alone), P(true) within 1e-4. Memory is the resident set of the studio's process, sampled each second; the
first third of the time is warm-up. Exit code 1: a job was lost, an answer was wrong, or memory grew by more than 10 %
after warm-up.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

STEPS, SEEDS, PROMPTS = 4, 4, 4


def expected(
    prompts: list[str], folder: Path
) -> tuple[dict[str, int], dict[tuple[str, int], np.ndarray], dict[str, Any]]:
    """What the library says: sentences, pictures and probabilities; the pictures that are checked are written."""
    from longalign import GenerateConfig, PreferenceModel
    from longalign.generation import Painter
    from longalign.stickers.as_world import StickerWorld

    painter = Painter(GenerateConfig(steps=STEPS))
    model = PreferenceModel.from_pretrained("stickers")
    sentences = {prompt: len(model.segments(prompt)) for prompt in prompts}
    pictures = {}
    for prompt in prompts:
        for seed in range(SEEDS):
            [image] = painter.paint(painter.encode([prompt]), [seed])
            pictures[prompt, seed] = np.asarray(image)
    source = StickerWorld().pictures(len(prompts), "test", 5, ((7, 9),))
    checked = {}
    for i, prompt in enumerate(prompts):
        file = folder / f"{i}.png"
        source.picture(i).save(file)
        checked[prompt] = (str(file), [s.probability for s in model.score([str(file)], [prompt]).segments[0]])
    return sentences, pictures, checked


class Users:
    """All users, what they asked, and what was wrong."""

    def __init__(self, address: str, known: Any, until: float) -> None:
        self.address, self.until = address, until
        self.sentences, self.pictures, self.checked = known
        self.counts: Counter[str] = Counter()
        self.waits: list[float] = []
        self.wrong: list[str] = []
        self.lock = threading.Lock()

    def one(self, number: int) -> None:
        from gradio_client import Client, handle_file
        from gradio_client.exceptions import AppError

        rng = random.Random(number)
        with tempfile.TemporaryDirectory() as downloads:
            client = Client(
                self.address,
                verbose=False,
                download_files=downloads,
                analytics_enabled=False,
                httpx_kwargs={"timeout": 300},
            )
            turn = number
            while time.monotonic() < self.until:
                prompt, seed = rng.choice(list(self.sentences)), rng.randrange(SEEDS)
                kind = "refused" if turn % 10 == 9 else ("cut", "drawn", "checked")[turn % 3]
                turn += 1
                began = time.monotonic()
                problem = ""
                try:
                    if kind == "cut":
                        told = client.predict(prompt=prompt, api_name="/encode")
                        if len(told["sentences"]) != self.sentences[prompt]:
                            problem = "other sentences"
                    elif kind == "drawn":
                        pictures, _ = client.predict(
                            prompt=prompt, steps=STEPS, seed=seed, api_name="/generate"
                        )
                        if not np.array_equal(
                            np.asarray(Image.open(pictures[0]["image"])), self.pictures[prompt, seed]
                        ):
                            problem = "other pixels"
                    elif kind == "checked":
                        file, probabilities = self.checked[prompt]
                        told = client.predict(image=handle_file(file), prompt=prompt, api_name="/score")
                        found = [row["probability"] for row in told["sentences"]]
                        if not np.allclose(found, probabilities, atol=1e-4):
                            problem = "other probabilities"
                    else:
                        try:
                            client.predict(prompt=prompt, steps=10_000, api_name="/generate")
                            problem = "was not refused"
                        except AppError as error:
                            if "the number of steps" not in str(error):
                                problem = str(error)
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                with self.lock:
                    self.counts[kind] += 1
                    self.waits.append(time.monotonic() - began)
                    if problem:
                        self.wrong.append(f"{kind}: {problem[:200]}")
            client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    from longalign.stickers.as_world import StickerWorld

    prompts = [StickerWorld().pictures(PROMPTS, "test", 5, ((7, 9),)).text(i) for i in range(PROMPTS)]
    with tempfile.TemporaryDirectory() as place:
        known = expected(prompts, Path(place))
        log = Path(place) / "log"
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "longalign",
            "studio",
            "--port",
            "0",
            "--no-browser",
            "--out",
            f"{place}/runs",
        ]
        with open(log, "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        while "http://" not in log.read_text():
            if process.poll() is not None:
                print(log.read_text())
                return 1
            time.sleep(0.1)
        address = "http://" + log.read_text().partition("http://")[2].split()[0]
        print(f"started in {time.monotonic() - began:.1f} s")
        start = time.monotonic()
        users = Users(address, known, start + options.seconds)
        threads = [threading.Thread(target=users.one, args=(i,)) for i in range(options.users)]
        for thread in threads:
            thread.start()
        memory: list[tuple[float, float]] = []
        while any(thread.is_alive() for thread in threads):
            memory.append((time.monotonic() - start, psutil.Process(process.pid).memory_info().rss / 2**20))
            time.sleep(1)
        process.terminate()
        process.wait()
    warm = [mib for at, mib in memory if options.seconds / 3 <= at <= options.seconds]
    half = len(warm) // 2
    before, after = statistics.median(warm[:half]), statistics.median(warm[half:])
    found = {
        "users": options.users,
        "seconds": options.seconds,
        "jobs": sum(users.counts.values()),
        **{name: users.counts[name] for name in ("cut", "drawn", "checked", "refused")},
        "wrong_or_lost": len(users.wrong),
        "median_wait_s": round(statistics.median(users.waits), 2),
        "longest_wait_s": round(max(users.waits), 2),
        "memory_mib_after_warm_up": round(before),
        "memory_mib_at_the_end": round(after),
        "memory_mib_most": round(max(mib for _, mib in memory)),
    }
    print(json.dumps(found, indent=2))
    for line, count in Counter(users.wrong).most_common(10):
        print(f"{count} x {line}")
    if options.out:
        options.out.write_text(
            json.dumps({"command": "python benchmarks/studio_users.py", **found}, indent=2) + "\n"
        )
    return 1 if users.wrong or after > 1.1 * before else 0


if __name__ == "__main__":
    sys.exit(main())
