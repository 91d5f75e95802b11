"""Records from a file in our own format."""

from array import array
from pathlib import Path

from vlm_fo1.data.example import Example, parse_line, read_lines
from vlm_fo1.data.sources.base import Epochs


class JsonlSource:
    """A JSONL file of records, read line by line as they are asked for.

    Args:
        path: The file; see `vlm_fo1.data.example` for the format.
        seed: Of the order.

    Raises:
        DataError: No such file, or no line in it.
    """

    def __init__(self, path: str | Path, seed: int = 0) -> None:
        self.path = Path(path)
        self._starts, self._lines = array("q"), array("q")
        for number, start, _ in read_lines(self.path):
            self._starts.append(start)
            self._lines.append(number)
        self._epochs = Epochs(len(self._starts), seed, str(path))

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``.

        Raises:
            DataError: With file and line, what is wrong there.
        """
        position, _ = self._epochs.at(index)
        number = self._lines[position]
        with self.path.open("rb") as file:
            file.seek(self._starts[position])
            line = file.readline()
        return parse_line(line, self.path, number)

    def line(self, index: int) -> int:
        """In which line, from 1, record ``index`` stands."""
        return self._lines[self._epochs.at(index)[0]]
