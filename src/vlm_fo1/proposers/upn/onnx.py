"""UPN as an ONNX file: written by PyTorch's exporter, run by ONNX Runtime.

A file has one canvas, batch size and prompt. Any image fits: it is put in the canvas's top left
corner. The backbone sees the empty rest, so numbers equal PyTorch's only for the same canvas.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlm_fo1._extras import require
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.proposers.base import ranked
from vlm_fo1.proposers.upn.configuration import PROMPTS
from vlm_fo1.proposers.upn.modeling import UPN, UPNOutput
from vlm_fo1.proposers.upn.preprocessing import LONGER_MAX, SHORTER, normalised, resized_wh
from vlm_fo1.proposers.upn.proposer import regions_of
from vlm_fo1.regions import Regions

_EXTRA = "onnx"
_OPSET = 20


class _OnePrompt(nn.Module):
    def __init__(self, model: UPN, prompt: str) -> None:
        super().__init__()
        self.model = model
        self.prompt: str = prompt

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(pixel_values, pixel_mask, self.prompt)
        return found.logits, found.boxes


def export_onnx(
    model: UPN,
    path: str | Path,
    *,
    size_wh: tuple[int, int] = (LONGER_MAX, SHORTER),
    prompt: str = "fine_grained",
    batch_size: int = 1,
) -> None:
    """Write a network as an ONNX file.

    Args:
        model: float32, on the CPU.
        path: The file; weights go beside it, into ``PATH.data``.
        size_wh: Width and height of the canvas in pixels.
        prompt: What the file looks for.
        batch_size: Images in one pass.

    Raises:
        ConfigError: Another dtype, no such prompt, or a canvas without pixels.
        MissingExtraError: ``onnx`` or ``onnxscript`` is not installed.
    """
    require("onnx", extra=_EXTRA)
    require("onnxscript", extra=_EXTRA)
    if prompt not in PROMPTS:
        raise ConfigError(f"prompt = {prompt!r}: {' or '.join(map(repr, PROMPTS))} is needed")
    if min(*size_wh, batch_size) < 1:
        raise ConfigError(f"size_wh = {size_wh}, batch_size = {batch_size}: at least 1 is needed")
    if model.decoder.content.dtype != torch.float32:
        raise ConfigError("only a float32 network can be exported: load it with dtype='float32'")
    width, height = size_wh
    pixel_values = torch.zeros(batch_size, 3, height, width)
    pixel_mask = torch.ones(batch_size, height, width, dtype=torch.bool)
    with torch.no_grad():
        torch.onnx.export(
            _OnePrompt(model, prompt).eval(),
            (pixel_values, pixel_mask),
            str(path),
            input_names=["pixel_values", "pixel_mask"],
            output_names=["logits", "boxes"],
            opset_version=_OPSET,
            dynamo=True,
            external_data=True,
            verbose=False,
        )


class OnnxUPN:
    """An exported network; called like `UPN`, or asked for an image's regions."""

    def __init__(self, path: str | Path, *, providers: Sequence[str] | None = None) -> None:
        """Open a file.

        Args:
            path: What `export_onnx` wrote.
            providers: Of ONNX Runtime, e.g. ``["CUDAExecutionProvider"]``; the CPU by default.

        Raises:
            CheckpointError: The file cannot be read.
            MissingExtraError: ``onnxruntime`` is not installed.
        """
        runtime = require("onnxruntime", extra=_EXTRA)
        try:
            self._session: Any = runtime.InferenceSession(
                str(path), providers=list(providers or ["CPUExecutionProvider"])
            )
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise CheckpointError(f"{path} is no ONNX file that can be run: {error}") from error
        self._shape: tuple[int, int, int, int] = tuple(self._session.get_inputs()[0].shape)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the canvas in pixels."""
        return self._shape[3], self._shape[2]

    def __call__(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> UPNOutput:
        """Run the network.

        Args:
            pixel_values: (B, 3, H, W) normalised pixels, B as exported, no larger than the canvas.
            pixel_mask: (B, H, W) bool, True where image; None for no padding.

        Returns:
            As `UPN.forward`.

        Raises:
            ConfigError: Another batch size, or images larger than the canvas.
        """
        batch, _, height, width = pixel_values.shape
        if batch != self._shape[0] or width > self._shape[3] or height > self._shape[2]:
            raise ConfigError(
                f"{batch} x {width} x {height} pixels do not fit this file, which was exported for "
                f"{self._shape[0]} x {self._shape[3]} x {self._shape[2]}"
            )
        canvas = torch.zeros(self._shape)
        canvas[:, :, :height, :width] = pixel_values
        mask = torch.zeros(batch, *self._shape[2:], dtype=torch.bool)
        mask[:, :height, :width] = True if pixel_mask is None else pixel_mask
        inputs = {"pixel_values": canvas.numpy(), "pixel_mask": mask.numpy()}
        logits, boxes = self._session.run(["logits", "boxes"], inputs)
        return UPNOutput(torch.from_numpy(logits), torch.from_numpy(boxes))

    def regions(self, image: Image.Image) -> Regions:
        """Regions of one image, with a file of batch size 1.

        Args:
            image: Upright RGB; resized as UPN does, or smaller where the canvas is.

        Returns:
            All boxes, within the image, best first.

        Raises:
            ConfigError: The file has another batch size.
            BoxError: The network gave numbers that are none.
        """
        width, height = resized_wh(image.size)
        factor = min(self.size_wh[0] / width, self.size_wh[1] / height, 1.0)
        fitted = (max(int(width * factor), 1), max(int(height * factor), 1))
        found = regions_of(self(normalised(image, fitted)[None]), [image.size])[0]
        return ranked(found.xyxy, found.scores, image.size, name="upn")
