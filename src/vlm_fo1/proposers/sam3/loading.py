"""Loading the two networks of a SAM 3 checkpoint, and what both do to an image.

transformers' own processor of SAM 3 needs torchvision; its image steps are these few lines.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoConfig

from vlm_fo1.devices import check_report, placed, reason_of
from vlm_fo1.errors import CheckpointError, ConfigError


def load_network(
    network: Any,
    source: str,
    kinds: tuple[str, ...],
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Any:
    """A network of transformers with every weight from a checkpoint, ready to be asked.

    Args:
        network: Its class.
        source: A folder or a Hub id.
        kinds: Values of the checkpoint's ``model_type`` that hold it.
        device: By default CUDA where there is one.
        dtype: By default float32 on the CPU, else as saved.
        revision: Branch, tag or commit of a Hub id.
        token: For gated and private repositories.

    Raises:
        CheckpointError: No such checkpoint, one of another network, or weights that do not fit.
        ConfigError: Nothing to load was named, or no such device or dtype here.
    """
    if not source:
        raise ConfigError(
            "sam3 needs to know what to load: sam3:facebook/sam3 (a gated repository: ask for "
            "access there first), or sam3:FOLDER"
        )
    place, kind = placed(device, dtype)
    try:
        found = AutoConfig.from_pretrained(source, revision=revision, token=token).model_type
        if found not in kinds:
            raise CheckpointError(
                f"{source} holds a model of type {found!r}: one of {', '.join(kinds)} is needed"
            )
        model, report = network.from_pretrained(
            source, revision=revision, token=token, dtype=kind, output_loading_info=True
        )
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = reason_of(source, error, revision)
        raise CheckpointError(
            f"{source} cannot be loaded as SAM 3: {reason}; name a folder with "
            "config.json and weights, or a Hub id you have access to"
        ) from error
    check_report(source, model, report)
    return model.to(place).eval()


def pixels_of(image: Image.Image, side: int) -> torch.Tensor:
    """An image as SAM 3 sees it.

    Args:
        image: Of any size and shape.
        side: Of the square it is stretched to, in pixels.

    Returns:
        (3, side, side) float32 in [-1, 1].
    """
    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    square = functional.interpolate(levels, (side, side), mode="bilinear", antialias=True)
    return square[0].float() / 127.5 - 1


def masks_at(
    probabilities: torch.Tensor, size_wh: tuple[int, int], *, threshold: float, step: int = 8
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Small maps as masks at image size, a few at a time so that memory stays small.

    Args:
        probabilities: (N, h, w).
        size_wh: Width and height of the image in pixels.
        threshold: A pixel above it belongs to the thing.
        step: How many at once.

    Returns:
        (N, H, W) bool.
    """
    width, height = size_wh
    masks = np.zeros((len(probabilities), height, width), np.bool_)
    for start in range(0, len(masks), step):
        part = probabilities[None, start : start + step].float()
        large = functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)
        masks[start : start + step] = (large[0] > threshold).cpu().numpy()
    return masks
