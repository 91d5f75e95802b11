"""What a score was made with: libraries and the commit of this program."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_LIBRARIES = ("vlm-fo1", "torch", "transformers", "numpy", "pillow", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Python, the libraries that decide answers and scores, and the commit where there is one."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = commit_of(Path(__file__))
    return found | ({"commit": commit} if commit else {})


def commit_of(file: Path) -> str | None:
    """The commit that a file of a checkout is of, with ``-dirty`` where something was changed.

    Args:
        file: One that git tracks; what is only installed inside a checkout is of no commit.
    """

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=file.parent, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
