"""The tokenizer of a checkpoint, whole or refused: transformers makes an empty one of no files."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig

from vlm_fo1.config import read_text
from vlm_fo1.errors import CheckpointError, MissingExtraError
from vlm_fo1.hub import first_line, problem_of

WHOLE_FILES = ("tokenizer.json", "tokenizer.model")
"""Each of them holds a tokenizer by itself."""
PAIR_FILES = ("vocab.json", "merges.txt")
"""Both together do."""
_SETTINGS_FILES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
_BACKENDS = ("sentencepiece", "tiktoken", "protobuf")


def load_tokenizer(source: str | Path, **hub: Any) -> Any:
    """The tokenizer that lies in a folder or a Hub repository.

    Args:
        source: A folder or a Hub id.
        **hub: Keywords for the Hub: ``revision``, ``token`` and the like.

    Raises:
        CheckpointError: A file of it is missing, broken, or a Git LFS pointer; or see `hub.fetch`.
        MissingExtraError: It needs a package that is not installed.
    """
    folder = Path(source)
    if folder.is_dir():
        _check_files(folder)
    try:
        # An empty configuration: the tokenizer's own files decide, the model's are not read.
        tokenizer = AutoTokenizer.from_pretrained(str(source), config=PreTrainedConfig(), **hub)
    except Exception as error:  # the library of tokenizers raises bare exceptions
        reason = first_line(error)
        needed = [name for name in _BACKENDS if name in str(error).lower()]
        if needed and (isinstance(error, ImportError) or (folder / "tokenizer.model").is_file()):
            raise MissingExtraError(
                f"the tokenizer of {source} needs {' or '.join(needed)}: pip install {needed[0]}"
            ) from error
        problem = problem_of(str(source), error, revision=hub.get("revision"))
        raise CheckpointError(
            problem
            or f"the tokenizer of {source} cannot be loaded ({type(error).__name__}: "
            f"{reason}): download its files again"
        ) from error
    if not tokenizer("the", add_special_tokens=False)["input_ids"]:
        raise CheckpointError(
            f"the tokenizer of {source} knows no words: it lacks {_files()}; download them again"
        )
    return tokenizer


def _files() -> str:
    return f"{' or '.join(WHOLE_FILES)}, or {' and '.join(PAIR_FILES)}"


def _check_files(folder: Path) -> None:
    """Refuse a folder whose tokenizer files are not all there.

    Raises:
        CheckpointError: One is missing or a pointer.
    """
    for name in (*WHOLE_FILES, *PAIR_FILES, *_SETTINGS_FILES):
        path = folder / name
        if path.is_file() and path.stat().st_size < 1000 and path.suffix != ".model" and (
            read_text(path, CheckpointError).startswith("version https://git-lfs")
        ):  # fmt: skip
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the file itself: run 'git lfs pull' in its "
                "folder, or download the file again"
            )
    if any((folder / name).is_file() for name in WHOLE_FILES):
        return
    missing = [name for name in PAIR_FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} has no tokenizer: {' and '.join(missing)} missing; it needs {_files()}; "
            "download them again"
        )
