"""An endless stream of images as training records, by index."""

from dataclasses import replace

import numpy as np

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.questions import ask
from recipes.synthetic.render import RenderedImage, render
from recipes.synthetic.sprites import load_sprites
from recipes.synthetic.view import View
from vlm_fo1.data.example import Example
from vlm_fo1.data.regions import BuiltRegions, build_regions


class SyntheticSource:
    """Images with questions; record ``index`` is the same every time it is asked for.

    Args:
        config: What images, regions and questions look like. May be replaced at any time: a
            curriculum sets `config`, and records depend on the config they are made with.
        seed: Another seed is another stream; keep the training seed away from the evaluation seed.
    """

    def __init__(self, config: SyntheticConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def example(self, index: int, config: SyntheticConfig | None = None) -> Example:
        """One record.

        Args:
            index: Any number from 0.
            config: Settings for this record alone; `config` of the stream by default.

        Returns:
            A record with its picture in memory.
        """
        return self.rendered(index, config)[0]

    def rendered(self, index: int, config: SyntheticConfig | None = None) -> tuple[Example, View]:
        """One record with the truth behind it, for evaluation and for files."""
        config = self.config if config is None else config
        # One generator a part: more questions do not change the picture.
        streams = [np.random.default_rng([self.seed, index, part]) for part in range(3)]
        rendered = render(config, load_sprites(config.sprites, config.final), streams[0])
        view = View(rendered, self._regions(rendered, config, streams[1]), config)
        example = Example(
            image=rendered.image,
            regions_xyxy=view.regions.xyxy,
            turns=ask(view, streams[2]),
            scores=view.regions.scores,
            source=f"images:{self.seed}",
            id=str(index),
        )
        return example, view

    def _regions(
        self, rendered: RenderedImage, config: SyntheticConfig, rng: np.random.Generator
    ) -> BuiltRegions:
        if rng.random() < config.no_regions:
            config = replace(config, drop=1.0, distractors=(0, 0))
        return build_regions(
            rendered.boxes_xyxy,
            rendered.image.size,
            rng,
            distractors=config.distractors,
            jitter=config.jitter,
            drop=config.drop,
            limit=config.region_limit,
        )
