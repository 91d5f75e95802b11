"""What a model is trained on: records, readers, synthetic images, mixtures and batches."""

from vlm_fo1.data.check import check_file
from vlm_fo1.data.example import Example, Turn, read_examples, write_examples

__all__ = ["Example", "Turn", "check_file", "read_examples", "write_examples"]
