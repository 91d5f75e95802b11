"""A page that runs as users run it, for tests that call or look at it."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START = """
import sys

def guard(event, values):
    host = None
    if event == "socket.connect" and isinstance(values[1], tuple):
        host = values[1][0]
    elif event == "socket.getaddrinfo":
        host = values[0]
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
        print("LEAVES THE MACHINE", host, file=sys.stderr, flush=True)

sys.addaudithook(guard)
from vlm_fo1.cli.main import main
main()
"""


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """The address of ``fo1 app``, which must neither fail nor look for another machine.

    Args:
        folder: Where it runs and its log goes; not the checkout: what it shows is in the package.
        options: More of the command's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", START, "app", "--port", str(port), *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            cwd=folder,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(address, timeout=30):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        else:
            pytest.fail(f"the page did not start:\n{log.read_text()}")
        yield address
    finally:
        server.terminate()
        server.wait(20)
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "LEAVES THE MACHINE" not in said, said
