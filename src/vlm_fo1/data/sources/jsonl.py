"""Records from a file in our own format."""

from array import array
from pathlib import Path

from vlm_fo1.data.example import Example, parse_line
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.errors import DataError


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
        try:
            with self.path.open("rb") as file:
                start = 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        self._starts.append(start)
                        self._lines.append(number)
                    start += len(line)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}): check the path") from error
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
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}:{number}: not UTF-8 ({error})") from error
        return parse_line(text, self.path, number)
