"""The page under many questions: seconds to start, to the first answer, and memory over time.

Asks the same question of the bundled scene through `gradio_client`, again and again, and reads the
server's memory from /proc. With --out the figures go to a file. Linux; needs the extra ``app``.
"""

import argparse
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import vlm_fo1

DEMO = Path(vlm_fo1.__file__).parent / "assets" / "demo"


def main() -> None:
    """Run and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, help="JSON, e.g. benchmarks/results/page.json")
    options = parser.parse_args()
    if find_spec("gradio_client") is None:
        print("left out, Gradio is not installed: pip install 'vlm-fo1[app]'")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from vlm_fo1.cli.main import main; main()"
    start = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-c", code, "app", "--port", str(port)], stdout=subprocess.DEVNULL
    )
    try:
        client, handle = connect(f"http://127.0.0.1:{port}")
        up_s = time.perf_counter() - start
        print(f"the page is up after {up_s:.1f} s")
        found = measure(client, handle, server.pid, options.requests, options.max_new_tokens)
    finally:
        server.terminate()
        server.wait(20)
    if options.out is not None:
        figures = {"requests": options.requests, "up_s": round(up_s, 2), **found}
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def connect(url: str) -> tuple[Any, Any]:
    """A client of the page, as soon as there is one.

    Raises:
        SystemExit: It does not start.
    """
    from gradio_client import Client, handle_file

    for _ in range(240):
        try:
            return Client(url, verbose=False), handle_file
        except Exception:  # noqa: BLE001 - whatever a server that is not there yet leads to
            time.sleep(0.5)
    raise SystemExit("the page did not start")


def measure(client: Any, handle: Any, pid: int, requests: int, tokens: int) -> dict[str, Any]:
    """Ask, print seconds and memory, and give them back."""
    boxes = json.loads((DEMO / "boxes.json").read_text(encoding="utf-8"))
    keys = ("xmin", "ymin", "xmax", "ymax")
    image = {
        "image": handle(str(DEMO / "photo.jpg")),
        "boxes": [dict(zip(keys, box, strict=True)) for box in boxes],
        "orientation": 0,
    }
    seconds: list[float] = []
    held_mb: dict[int, float] = {}
    for number in range(1, requests + 1):
        start = time.perf_counter()
        client.predict(
            image=image,
            task="detection",
            labels=["orange", "apple"],
            max_new_tokens=tokens,
            api_name="/ask",
        )
        seconds.append(time.perf_counter() - start)
        if number == 1:
            print(f"the first answer took {seconds[0]:.2f} s, loading included")
        if number % max(1, requests // 10) == 0 or number == 1:
            held_mb[number] = round(resident_mb(pid), 1)
            print(f"{number} requests: {held_mb[number]:.0f} MB", flush=True)
    middle = statistics.median(seconds)
    print(f"an answer takes {middle:.2f} s (median of {requests})")
    return {
        "first_answer_s": round(seconds[0], 3),
        "median_answer_s": round(middle, 3),
        "held_mb": held_mb,
    }


def resident_mb(pid: int) -> float:
    """Memory that a process holds, in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else float("nan")


if __name__ == "__main__":
    main()
