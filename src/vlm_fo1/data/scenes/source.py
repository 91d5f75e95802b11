"""An endless stream of scenes as training records, by index."""

from dataclasses import replace

import numpy as np

from vlm_fo1.data.example import Example
from vlm_fo1.data.regions import BuiltRegions, build_regions
from vlm_fo1.data.scenes.config import SceneConfig
from vlm_fo1.data.scenes.questions import ask
from vlm_fo1.data.scenes.render import RenderedScene, render
from vlm_fo1.data.scenes.sprites import load_sprites
from vlm_fo1.data.scenes.view import View


class ScenesSource:
    """Scenes with questions; record ``index`` is the same every time it is asked for.

    Args:
        config: What scenes, regions and questions look like. May be replaced at any time: a
            curriculum sets `config`, and records depend on the config they are made with.
        seed: Another seed is another stream; keep the training seed away from the evaluation seed.
    """

    def __init__(self, config: SceneConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def example(self, index: int, config: SceneConfig | None = None) -> Example:
        """One record.

        Args:
            index: Any number from 0.
            config: Settings for this record alone; `config` of the stream by default.

        Returns:
            A record with its picture in memory.
        """
        return self.scene(index, config)[0]

    def scene(self, index: int, config: SceneConfig | None = None) -> tuple[Example, View]:
        """One record with the truth behind it, for evaluation and for files."""
        config = self.config if config is None else config
        # One generator a part: more questions do not change the picture.
        streams = [np.random.default_rng([self.seed, index, part]) for part in range(3)]
        scene = render(config, load_sprites(config.sprites), streams[0])
        view = View(scene, self._regions(scene, config, streams[1]), config)
        example = Example(
            image=scene.image,
            regions_xyxy=view.regions.xyxy,
            turns=ask(view, streams[2]),
            scores=view.regions.scores,
            source=f"scenes:{self.seed}",
            id=str(index),
        )
        return example, view

    def _regions(
        self, scene: RenderedScene, config: SceneConfig, rng: np.random.Generator
    ) -> BuiltRegions:
        if rng.random() < config.no_regions:
            config = replace(config, drop=1.0, distractors=(0, 0))
        return build_regions(
            scene.boxes_xyxy,
            scene.image.size,
            rng,
            distractors=config.distractors,
            jitter=config.jitter,
            drop=config.drop,
            limit=config.region_limit,
        )
