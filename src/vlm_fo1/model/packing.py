"""Several questions on one image in one row, each as if it were asked alone.

A question sees the image, the regions and itself, at the positions it would have alone: what it
learns does not depend on the questions beside it.
Shapes: B rows, T tokens, D width of the language model.
"""

from typing import Any

import torch
from torch import Tensor

from vlm_fo1.errors import SpliceError


def separate(
    host: Any, embeds_BTD: Tensor, position_ids: Tensor, segment_ids_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """What keeps questions apart in the decoder.

    Args:
        host: Its text model computes attention.
        embeds_BTD: Of the rows.
        position_ids: Of the rows read in one piece, (B, T) or (3, B, T).
        segment_ids_BT: 0 on what all see (image and regions, or a whole conversation), then 1, 2,
            ... on each question with its answer, in order and without further images; -1 on
            padding.

    Returns:
        (B, 1, T, T) attention mask, 0 or the least number, to be added; and positions that begin
        again where the first question begins.

    Raises:
        SpliceError: The attention kernel takes no such mask.
    """
    kernel = str(getattr(host.config.get_text_config(), "_attn_implementation", ""))
    if "flash" in kernel:
        raise SpliceError(
            f"several questions in a row need a mask that {kernel} does not take: load the model "
            'with attn_implementation="sdpa" (model.attention in a training configuration), or '
            "write one question a record"
        )
    device = embeds_BTD.device
    segments, length = segment_ids_BT.to(device), segment_ids_BT.shape[1]
    own = segments[:, :, None] == segments[:, None, :]
    seen = own | ((segments == 0)[:, None, :] & (segments >= 0)[:, :, None])
    seen &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else embeds_BTD.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    mask = mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
    places = torch.arange(length, device=device).expand_as(segments)
    starts = segments.diff(dim=1, prepend=segments[:, :1] - 1) != 0
    begins = torch.where(starts, places, 0).cummax(1).values
    first = (segments == 1).int().argmax(1, keepdim=True)  # where there is none, nothing moves
    return mask, position_ids - torch.where(segments > 0, begins - first, 0)
