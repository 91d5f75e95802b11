"""From a configuration to the components of a run: the network, its processor, the data."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_fo1.data.collate import Collator
from vlm_fo1.data.example import Example
from vlm_fo1.data.mixture import Mixture
from vlm_fo1.data.recipe import fingerprint, make_mixture
from vlm_fo1.errors import FO1Error, item_errors
from vlm_fo1.images import image_size
from vlm_fo1.model.weights import read_config, resolve_folder
from vlm_fo1.processing import FO1Processor
from vlm_fo1.train.components import Objective, RunComponents
from vlm_fo1.train.config import TrainConfig
from vlm_fo1.train.names import NameCollate, NameLoss
from vlm_fo1.train.network import Network
from vlm_fo1.train.sets import SetCollate, set_answer_loss

logger = logging.getLogger(__name__)


class ExampleLength:
    """Tokens of a record, without decoding its image.

    How many tokens an image takes is learnt from a blank one of the size that the primary encoder
    sees, so it holds for every host. Near enough to sort by; what is sent to the network is counted
    there.

    Args:
        collator: What will make the batch.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator
        self._image_tokens: dict[tuple[int, int], int] = {}

    def __call__(self, example: Example) -> int:
        """Tokens; 0 for a record that cannot be used, which `collate` will say."""
        try:
            with item_errors(f"record {example.id} of {example.source}"):
                tokens = 0 if example.image is None else self._tokens(example.image)
                return len(self.collator.encode(example, tokens).input_ids)
        except FO1Error:
            return 0

    def _tokens(self, image: Path | Image.Image) -> int:
        processor = self.collator.processor.image_processor
        size = processor.seen_size(image_size(image))
        if size not in self._image_tokens:
            blank = processor([Image.new("RGB", size)])
            self._image_tokens[size] = processor.image_tokens(blank["image_grid_thw"])[0]
        return self._image_tokens[size]


def make_collator(model: str, max_tokens: int) -> Collator:
    """What makes the batches of a model: with its processor, so within its limits.

    Args:
        model: A folder or Hub id with a processor in it.
        max_tokens: Longest sequence.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    return Collator(FO1Processor.from_pretrained(resolve_folder(model, weights=False)), max_tokens)


def assemble(config: TrainConfig) -> RunComponents:
    """The components of a run on the package's own data and networks.

    Args:
        config: The run; ``model.path`` is a folder or Hub id with a processor in it.

    Raises:
        CheckpointError: There is no such checkpoint.
        ConfigError: A mixture cannot be made.
    """
    start = resolve_folder(config.model.path, check=read_config)
    collator = make_collator(config.model.path, config.data.max_tokens)
    processor = collator.processor
    strict = config.data.on_bad_record == "stop"

    def make_source(mixture: Mapping[str, Any], shard: int, shards: int) -> Mixture:
        return make_mixture(mixture, seed=config.seed, rank=shard, world_size=shards, strict=strict)

    def first_records() -> Mixture:
        return make_source(config.stages[0].mixture, 0, 1)

    network = Network(config, start, processor, first_records)
    name_loss = NameLoss()
    names = Objective(collate=NameCollate(collator), loss=name_loss, begin=name_loss.begin)
    length = ExampleLength(collator)
    sets = Objective(collate=SetCollate(collator), loss=set_answer_loss, length=length)
    notes: dict[str, None] = {}
    for mixture in config.mixtures():  # a mistake in the last should not wait for the first to end
        for part in make_source(mixture, 0, 1).parts:
            notes.update(dict.fromkeys(part.notes))
    for note in notes:
        logger.warning("%s", note)
    ids = processor.tokenizer.convert_tokens_to_ids(processor.vocabulary.special_tokens())
    return RunComponents(
        load_model=network.load,
        make_source=make_source,
        collate=collator,
        length=length,
        new_token_ids=ids,
        new_word_ids=network.word_ids,
        fingerprint=fingerprint,
        save_model=network.save,
        plain_state=network.plain_state,
        other_objectives={"names": names, "sets": sets},
        processor=processor,
    )
