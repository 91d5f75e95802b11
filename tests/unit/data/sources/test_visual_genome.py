"""Phrases of Visual Genome describe their regions."""

import pytest
from tests.helpers.annotations import written

from vlm_fo1.data.sources import VisualGenomeSource
from vlm_fo1.errors import DataError


def test_visual_genome_phrases_describe_their_regions(tmp_path, images):
    boxes = [(0, 0, 50, 50, "a wall"), (60, 60, 70, 80, "a brown door"), (0, 0, 0, 9, "nothing")]
    keys = ("x", "y", "width", "height", "phrase")
    rows = [{"id": 2, "regions": [dict(zip(keys, box, strict=True)) for box in boxes]}]
    source = VisualGenomeSource(written(tmp_path, rows), images)
    example = source.example(0)
    assert {turn.answer for turn in example.turns} == {"a wall", "a brown door"}
    rows[0]["id"] = 3
    with pytest.raises(DataError, match=r"3\.jpg"):
        VisualGenomeSource(written(tmp_path, rows), images).example(0)
