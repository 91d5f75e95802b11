"""A recipe names sources, and a wrong one says what is meant."""

from itertools import islice

import pytest
from tests.helpers.annotations import coco, jsonl

from vlm_fo1.data.recipe import fingerprint, make_mixture
from vlm_fo1.errors import ConfigError

# Mixtures


SYNTHETIC = "recipes.synthetic:make_source"


def test_a_recipe_makes_a_mixture(tmp_path, images):
    _, path = coco(tmp_path)
    recipe = {
        "sources": [
            {"type": "jsonl", "path": str(jsonl(tmp_path, "a", 3)), "weight": 2},
            {
                "type": SYNTHETIC,
                "objects": [2, 4],
                "coloured": 1,
                "tasks": {"counting": 1},
            },
            {
                "type": "coco",
                "annotations": str(path),
                "images": str(images),
                "questions": {"turns": [1, 1], "tasks": {"counting": 1.0}},
            },
        ]
    }
    stream = make_mixture(recipe, seed=3)
    tasks = {turn.task for example in islice(iter(stream), 40) for turn in example.turns}
    assert {"free", "counting"} <= tasks
    assert set(fingerprint(recipe)) == {str(tmp_path / "a.jsonl"), str(path)}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, "sources"),
        (
            {"sources": [{"type": SYNTHETIC, "augment": {"miror": 0.5}}]},
            r"sources\.0\.augment\.miror.*did you mean 'mirror'",
        ),
        ({"sources": [{"type": SYNTHETIC, "augment": {"mirror": 2.0}}]}, "mirror = 2.0 is a share"),
        ({"sources": [{"type": "cocoa"}]}, "did you mean 'coco'"),
        ({"sources": [{"type": "json:no_such"}]}, "'json:no_such', which cannot be had: .*no_such"),
        ({"sources": [{"type": "no_such:make"}]}, "'no_such:make', which cannot be had: No module"),
        ({"sources": [{"type": SYNTHETIC, "object": 3}]}, "object"),
        ({"sources": [{"type": SYNTHETIC, "objects": "many"}]}, "objects = 'many'"),
        ({"sources": [{"type": "jsonl"}]}, r"'sources\.0\.path' is needed"),
        ({"sources": [{"type": "jsonl", "path": "x", "pth": 3}]}, "did you mean 'path'"),
        ({"sources": [{"type": "coco", "questions": {"turn": 3}}]}, "did you mean 'turns'"),
    ],
)
def test_a_wrong_recipe_names_what_is_meant(recipe, said):
    with pytest.raises(ConfigError, match=said):
        make_mixture(recipe)
