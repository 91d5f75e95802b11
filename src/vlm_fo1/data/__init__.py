"""What a model is trained on: records, readers, rendered scenes, mixtures and batches."""

from vlm_fo1.data.example import Example, Turn, check_file, read_examples, write_examples

__all__ = ["Example", "Turn", "check_file", "read_examples", "write_examples"]
