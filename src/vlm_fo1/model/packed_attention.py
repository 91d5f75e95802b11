"""Attention in all windows of a ViT at once, or in all of its images.

Qwen ViTs lay the patches of a batch in one row, window after window, and attend inside each. Out of
the box transformers calls the attention once a window in a Python loop, unless the name of the
implementation says "flash": such a one gets the whole row and where its segments end. So does ours,
under a name of that kind. It takes the place of ``sdpa`` alone: who asks for another has it.

On CUDA, in half precision, the segments go through torch's own variable-length kernel; elsewhere
those of one length are attended as a batch. Shapes: P patches, H heads, E width of a head, S
segments, L patches of a segment.
"""

import copy
import importlib.util
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

PACKED = "vlm_fo1_packed_flash"
"""Our name in transformers' table of attention implementations."""

HALF = (torch.float16, torch.bfloat16)


def attend_packed(vit: Any) -> None:
    """Let a Qwen ViT that would attend by SDPA do so in all segments at once.

    Only its attention modules are told, by a configuration of their own: the ViT's is shared with
    the host's, and no other model could be made of a configuration with our name in it.

    Args:
        vit: The vision tower of a host; changed in place, back too if its configuration asks for
            another implementation since.
    """
    AttentionInterface.register(PACKED, packed_attention)  # here, since importing does no work
    config = vit.config
    wanted = config._attn_implementation  # noqa: SLF001 - transformers has no public name
    if wanted == "sdpa":
        wanted = PACKED
    if vit.blocks[0].attn.config._attn_implementation == wanted:  # noqa: SLF001
        return
    if wanted == PACKED:
        config = copy.copy(config)
        config._attn_implementation = PACKED  # noqa: SLF001
    for block in vit.blocks:
        block.attn.config = config


def ends_device(vit: Any, device: torch.device) -> torch.device:
    """Where the attention of a ViT reads the ends of segments: a kernel on its device, Python here.

    Args:
        vit: The vision tower of a host.
        device: That of its patches.
    """
    asked = vit.config._attn_implementation  # noqa: SLF001
    kernel = device.type == "cuda" and ("flash" in asked or vit.dtype in HALF)
    return device if kernel else torch.device("cpu")


def packed_attention(
    module: nn.Module,  # noqa: ARG001 - the signature of transformers' attention functions
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - segments are all the mask there is
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend inside each segment of a row, both ways.

    Args:
        module: Not looked at.
        query: (1, H, P, E).
        key: As the query.
        value: As the query.
        attention_mask: Not looked at.
        cu_seq_lens_q: (S + 1,) int32, from 0 to P: where each segment ends.
        max_length_q: Patches of the longest segment.
        scaling: Factor of the products; one over the root of E if left out.
        dropout: Probability.

    Returns:
        (1, P, H, E), and no weights.
    """
    query_PHE, key_PHE, value_PHE = (part[0].transpose(0, 1) for part in (query, key, value))
    usual = float(query.shape[-1] ** -0.5)
    scale = usual if scaling is None else scaling
    if has_kernel(query) and not dropout and scale == usual:
        from torch.nn.attention.varlen import varlen_attn  # since torch 2.10

        ends = cu_seq_lens_q.to(query.device, torch.int32, non_blocking=True)
        out_PHE = varlen_attn(query_PHE, key_PHE, value_PHE, ends, ends, max_length_q, max_length_q)
        assert isinstance(out_PHE, Tensor)  # nothing beside it was asked for
    else:
        lengths = tuple((cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist())
        out_PHE = _attend_in_batches(query_PHE, key_PHE, value_PHE, lengths, scale, dropout)
    return out_PHE[None], None


def has_kernel(query: Tensor) -> bool:
    """Whether torch's variable-length kernel takes such tensors: all that is asked of CUDA."""
    return (
        query.device.type == "cuda"
        and query.dtype in HALF
        and query.shape[-1] % 8 == 0
        and _device_has_kernel(query.device)
    )


@cache
def _device_has_kernel(device: torch.device) -> bool:
    return (
        torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and importlib.util.find_spec("torch.nn.attention.varlen") is not None
    )


def _attend_in_batches(
    query_PHE: Tensor,
    key_PHE: Tensor,
    value_PHE: Tensor,
    lengths: tuple[int, ...],
    scaling: float,
    dropout: float,
) -> Tensor:
    """One call for all segments of one length; (P, H, E)."""
    sizes, order, back = _by_length(lengths, query_PHE.device)
    parts = [query_PHE, key_PHE, value_PHE]
    if order is not None:
        parts = [part[order] for part in parts]
    out: list[Tensor] = []
    first = 0
    for count, length in sizes:
        some = slice(first, first := first + count * length)
        batch_SHLE = [part[some].unflatten(0, (count, length)).transpose(1, 2) for part in parts]
        attended_SHLE = functional.scaled_dot_product_attention(
            *batch_SHLE, dropout_p=dropout, scale=scaling
        )
        out.append(attended_SHLE.transpose(1, 2).flatten(0, 1))
    if back is None:
        return out[0]
    return torch.cat(out)[back]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may use what answering made
def _by_length(
    lengths: tuple[int, ...], device: torch.device
) -> tuple[list[tuple[int, int]], Tensor | None, Tensor | None]:
    """How to bring segments of one length together.

    Returns:
        Number and length of the segments of each batch; the (P,) place of each patch of the
        batches, and that of each patch of the row among them, both None for a single batch.
    """
    sizes = [(lengths.count(length), length) for length in sorted(set(lengths), reverse=True)]
    if len(sizes) == 1:
        return sizes, None, None
    lengths_S = torch.tensor(lengths)
    length_P = lengths_S.repeat_interleave(lengths_S)
    order_P = torch.argsort(length_P, descending=True, stable=True)
    back_P = torch.argsort(order_P)
    return sizes, order_P.to(device), back_P.to(device)
