"""Contract cases of the proposers that need no download: lines of text, selective search."""

from pathlib import Path

from tests.helpers.proposer_cases import ProposerCase
from vlm_fo1.proposers.base import Proposer, load_proposer


def text_lines(_folder: Path) -> Proposer:
    return load_proposer("ocr", short_side=320, threads=1)


def other_text_lines(_folder: Path) -> Proposer:
    return load_proposer("ocr", short_side=352, threads=1)


def selective(_folder: Path) -> Proposer:
    return load_proposer("selective")


def other_selective(_folder: Path) -> Proposer:
    return load_proposer("selective", keep=20)


CASES = [
    ProposerCase(
        name="ocr", build=text_lines, queries=None, other=other_text_lines, needs="rapidocr"
    ),
    ProposerCase(
        name="selective", build=selective, queries=None, other=other_selective, needs="cv2"
    ),
]
