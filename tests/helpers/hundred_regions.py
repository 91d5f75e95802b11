"""The bundled model with as many region numbers as released checkpoints have."""

from typing import Any

from vlm_fo1 import FO1, FO1ImageProcessor, FO1Processor
from vlm_fo1.markup import RELEASED


def with_a_hundred_numbers(fo1: FO1) -> FO1:
    """The same weights; what it answers about numbers that were not trained means nothing."""
    own = fo1.processor
    images: Any = FO1ImageProcessor.from_dict(
        {**own.image_processor.to_dict(), "max_regions": RELEASED.max_regions}
    )
    processor = FO1Processor(images, own.tokenizer, vocabulary=RELEASED, chat=own.chat)
    return FO1(fo1.model, processor, fo1.proposer)
