"""From images, boxes and questions to the tensors a model reads, and from token ids back to text.

The model's code is not known here, nor this code there: they meet in `input_ids` (an image token
per merged patch, a region token per box) and in the names of the batch.
"""

from vlm_fo1.processing.chat import ChatFormat
from vlm_fo1.processing.hosts import processor_for_host
from vlm_fo1.processing.image import FO1ImageProcessor, qwen_primary, square_primary
from vlm_fo1.processing.processor import FO1Processor

__all__ = [
    "ChatFormat",
    "FO1ImageProcessor",
    "FO1Processor",
    "processor_for_host",
    "qwen_primary",
    "square_primary",
]
