"""Lines of text as regions: a PP-OCR detector that comes inside a wheel, run by ONNX Runtime."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vlm_fo1._extras import require
from vlm_fo1.errors import BoxError, CheckpointError, ConfigError
from vlm_fo1.proposers.base import Selection, check_queries, ranked
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.regions import Regions

_LOG = logging.getLogger(__name__)

_STEP = 32
"""The network halves its input five times."""
_TEXT = 0.3
"""Probability above which a pixel counts as text."""
_UNCLIP = 1.6
"""The network marks the core of a line; how far the box grows around it (area over perimeter)."""
_CANDIDATES = 10_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """At which size an image is read."""

    short_side: int = 736
    """Smaller images are enlarged until their short side has so many pixels."""
    long_side: int = 2000
    """Greatest long side in pixels; this rule goes before the other one."""

    def __post_init__(self) -> None:
        """Refuse sizes that the network cannot take.

        Raises:
            ConfigError: A side below 32 pixels, or a short side above the long one.
        """
        if not _STEP <= self.short_side <= self.long_side:
            raise ConfigError(
                f"short_side = {self.short_side}, long_side = {self.long_side}: at least {_STEP} "
                "pixels, and the short side not above the long one"
            )

    def of(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        """Width and height at which an image of this size is read: multiples of 32 pixels."""
        scale = max(1.0, self.short_side / min(size_wh))
        scale = min(scale, self.long_side / max(size_wh))
        width, height = (max(_STEP, round(side * scale / _STEP) * _STEP) for side in size_wh)
        return width, height


class TextProposer:
    """Finds lines of text, printed or written, in any script; does not read them.

    Scores are the mean probability of text within a line. ONNX Runtime lets several threads share
    one session, so this is safe to use from several threads.
    """

    name = "ocr"
    requires_labels = False
    selection = Selection(min_score=0.5, nms_iou=0.8, limit=300)
    """PP-OCR's own threshold."""

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        size: Size | None = None,
        threads: int | None = None,
    ) -> None:
        """Load a detector.

        Args:
            path: A PP-OCR text detector (DB head) as an ONNX file.
            device: ``"cuda"`` is used where ONNX Runtime was built for it; anything else, and a
                CUDA device that it cannot use, means the CPU.
            size: At which size images are read.
            threads: For ONNX Runtime, spent on one image; None takes as many as torch does.

        Raises:
            CheckpointError: No such file, or another network.
            ConfigError: Fewer than one thread.
            MissingExtraError: The extra ``ocr`` is not installed.
        """
        if threads is not None and threads < 1:
            raise ConfigError(f"threads = {threads}: at least 1, or None for as many as torch uses")
        runtime = require("onnxruntime", extra="ocr")
        decoding = require("rapidocr.ch_ppocr_det.utils", extra="ocr")
        self.size = size or Size()
        self._session = _open(runtime, Path(path), device, threads or torch.get_num_threads())
        self._input = self._session.get_inputs()[0].name
        self._decode = decoding.DBPostProcess(
            thresh=_TEXT,
            box_thresh=0.0,  # nothing is dropped here
            max_candidates=_CANDIDATES,
            unclip_ratio=_UNCLIP,
            use_dilation=True,
        )
        self.fingerprint = digest_of(
            self.name,
            Path(path).read_bytes(),
            version("rapidocr"),
            self._session.get_providers()[0],
            asdict(self.size),
        )

    @classmethod
    def from_pretrained(
        cls,
        argument: str = "",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,  # noqa: ARG003 - the file fixes it
        short_side: int = Size.short_side,
        long_side: int = Size.long_side,
        threads: int | None = None,
    ) -> "TextProposer":
        """Make one by name: ``"ocr"``, or ``"ocr:FILE.onnx"`` for another PP-OCR detector.

        Args:
            argument: Path of an ONNX file; empty for the model inside the ``rapidocr`` wheel.
            device: As for the class.
            dtype: Has no effect: the file fixes it.
            short_side: Images are enlarged until their short side has so many pixels.
            long_side: Greatest long side in pixels.
            threads: As for the class.

        Raises:
            CheckpointError: No such file, or another network.
            ConfigError: A size or a number of threads that cannot be.
            MissingExtraError: The extra ``ocr`` is not installed.
        """
        size = Size(short_side=short_side, long_side=long_side)
        return cls(argument or bundled_model(), device=device, size=size, threads=threads)

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """Lines of text in each image, upright boxes around them, the surest first.

        Args:
            images: Upright RGB images.
            queries: Has to be None.

        Returns:
            One `Regions` per image.

        Raises:
            PromptError: Queries were given.
            BoxError: The network returned numbers that are none.
        """
        check_queries(self.name, queries, needed=False)
        return [self._lines(image) for image in images]

    def _lines(self, image: Image.Image) -> Regions:
        width, height = image.size
        if not (width and height):
            return Regions.empty(image.size)
        text_1_1HW = self._session.run(None, {self._input: self._pixels(image)})[0]
        if not np.isfinite(text_1_1HW).all():
            raise BoxError(
                f"{self.name} returned values that are no numbers: the weights are broken"
            )
        corners, scores = self._decode(text_1_1HW, (height, width))
        if not len(corners):
            return ranked([], [], image.size, name=self.name)
        corners_N42 = np.asarray(corners, np.float32)
        # the last pixel of a line belongs to it
        xyxy = np.concatenate([corners_N42.min(1), corners_N42.max(1) + 1], axis=1)
        return ranked(xyxy, scores, image.size, name=self.name)

    def _pixels(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """(1, 3, H, W): blue, green, red from -1 to 1, as the network was trained."""
        resized = image.convert("RGB").resize(self.size.of(image.size), Image.Resampling.BILINEAR)
        bgr_HW3 = np.asarray(resized, np.float32)[..., ::-1]
        return np.ascontiguousarray((bgr_HW3 / 127.5 - 1).transpose(2, 0, 1)[None])


def bundled_model() -> Path:
    """The text detector that the ``rapidocr`` wheel carries.

    Raises:
        MissingExtraError: The extra ``ocr`` is not installed.
        CheckpointError: The installed version carries none.
    """
    package = Path(str(require("rapidocr", extra="ocr").__file__)).parent
    found = sorted((package / "models").glob("PP-OCR*_det_*.onnx"))
    if not found:
        raise CheckpointError(
            f"rapidocr {version('rapidocr')} carries no text detector: install 3.10, or name a "
            "file, ocr:FILE.onnx"
        )
    return found[0]


def _open(runtime: Any, path: Path, device: str | torch.device | None, threads: int) -> Any:
    """An ONNX Runtime session.

    Raises:
        CheckpointError: No such file, or another network.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no text detector {path}: name an ONNX file of PP-OCR's")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # waiting threads sleep: the language model wants the cores next
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device is not None and torch.device(device).type == "cuda":
        if "CUDAExecutionProvider" in runtime.get_available_providers():
            index = torch.device(device).index or 0
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
        else:
            _LOG.info("this ONNX Runtime has no CUDA: text lines are found on the CPU")
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors have no common base of their own
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise CheckpointError(f"{path} is no network for ONNX Runtime: {error}") from error
    ins, outs = session.get_inputs(), session.get_outputs()
    shapes = [ins[0].shape, outs[0].shape]
    if len(ins) != 1 or [len(shape) for shape in shapes] != [4, 4] or shapes[0][1] != 3:
        raise CheckpointError(
            f"{path} is no text detector of PP-OCR's: it takes {shapes[0]} and gives {shapes[1]}, "
            "(1, 3, H, W) and (1, 1, H, W) are needed"
        )
    return session
