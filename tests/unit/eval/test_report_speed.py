"""What it takes to score a large run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_five_thousand_images_of_a_hundred_boxes_are_scored_in_a_minute_and_two_gigabytes():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.eval_report"],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    taken = json.loads(done.stdout)
    assert taken["images"] == 5000
    assert taken["cpu_seconds"] < 60  # of one core: a wall clock would measure what else is running
    assert taken["peak_gib"] < 2
