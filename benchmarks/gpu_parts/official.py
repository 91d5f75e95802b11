"""The official way with our weights: one image and one question at a time, every part as it comes.

transformers' own ViT and DaViT, the stages of the auxiliary tower resized to the largest and
joined, RoIAlign on that and on each pyramid level, transformers' ``generate``. Nothing is kept
between two questions. The numbers are those of our own way, up to rounding.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.vision_utils import get_vision_window_index

from vlm_fo1 import FO1
from vlm_fo1.model.modeling import EncodedImages

_BOXES_AT_ONCE = 10
BINS = 7


class OfficialWay:
    """The official way, sharing the weights of a model of ours.

    Args:
        fo1: The model and its processor.
    """

    def __init__(self, fo1: FO1) -> None:
        self.model: Any = fo1.model
        self.processor = fo1.processor
        config, dtype, device = fo1.model.config, fo1.model.dtype, fo1.model.device
        self.attention = "sdpa"
        if device.type == "cuda" and is_flash_attn_2_available():
            self.attention = "flash_attention_2"
        self.visual: Any = None
        with torch.inference_mode(mode=False), torch.device(device):
            if config.host.model_type == "qwen2_5_vl":
                self.visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(  # noqa: SLF001
                    config.host.vision_config, dtype=dtype, attn_implementation=self.attention
                )
            self.backbone: Any = Florence2VisionBackbone._from_config(  # noqa: SLF001
                config.auxiliary, dtype=dtype, attn_implementation="sdpa"
            )
        if self.visual is not None:
            self.visual.load_state_dict(self.model.host.model.visual.state_dict(), assign=True)
            self.visual.eval()
        self.backbone.load_state_dict(self.model.auxiliary.tower.state_dict(), assign=True)
        self.backbone.eval()

    @torch.inference_mode()
    def primary(self, pixel_values: Tensor, image_grid_thw: Tensor) -> tuple[Tensor, Tensor]:
        """Merged tokens (n, D) and last full-attention map (C, H, W) of one image.

        Of another host than the released one it is our own way: such towers have no windows.
        """
        if self.visual is None:
            encoded = self.model.host_adapter.encode_images(
                self.model.host, pixel_values, image_grid_thw
            )
            return encoded.tokens[0], encoded.maps[0].map_CHW
        config = self.visual.config
        output = self.visual(pixel_values.to(self.visual.dtype), grid_thw=image_grid_thw)
        merge = config.spatial_merge_size
        index, _ = get_vision_window_index(
            image_grid_thw.cpu(), merge, config.window_size, config.patch_size
        )
        blocks = output.last_hidden_state.unflatten(0, (-1, merge, merge))
        ordered = blocks[torch.argsort(index).to(blocks.device)]
        _, rows, columns = image_grid_thw[0].tolist()
        grid = ordered.unflatten(0, (rows // merge, columns // merge))
        return output.pooler_output, grid.permute(4, 0, 2, 1, 3).reshape(-1, rows, columns)

    @torch.inference_mode()
    def auxiliary(self, pixels_3HW: Tensor) -> list[Tensor]:
        """The four stages (C, H, W) of one image."""
        stages: list[Tensor] = []
        hidden = pixels_3HW[None].to(self.backbone.dtype)
        for embed, blocks in zip(self.backbone.convs, self.backbone.blocks, strict=True):
            hidden = embed(hidden)
            for block in blocks:
                hidden = block(hidden)
            stages.append(hidden[0])
        return stages

    @torch.inference_mode()
    def regions(
        self, stages: list[Tensor], map_CHW: Tensor, boxes_N4: Tensor, auxiliary_wh: tuple[int, int]
    ) -> Tensor:
        """Region features (N, R): resize, join, RoIAlign, mean; boxes in auxiliary pixels."""
        config = self.model.config.regions
        patch = self.model.config.host.vision_config.patch_size
        height, width = (float(patch * side) for side in map_CHW.shape[1:])
        factor = boxes_N4.new_tensor([width / auxiliary_wh[0], height / auxiliary_wh[1]])
        primary_boxes_N4 = boxes_N4 * factor.repeat(2)
        joined = torch.cat(
            [
                F.interpolate(stage[None].float(), size=stages[0].shape[1:], mode="bilinear")[0]
                for stage in stages
            ]
        )
        parts = [roi_align_mean(joined, boxes_N4, 1 / config.auxiliary_strides[0])]
        levels = self.model.region_encoder.pyramid.levels
        for level, stride in zip(levels, config.pyramid_strides, strict=True):
            found = level(map_CHW[None])[0].float()
            parts.append(roi_align_mean(found, primary_boxes_N4, 1 / stride))
        features_NR = torch.cat(parts, dim=-1)
        return features_NR + box_position(
            primary_boxes_N4, (width, height), features_NR.shape[-1], config.position_temperature
        )

    @torch.inference_mode()
    def encode(self, inputs: Mapping[str, Any]) -> EncodedImages:
        """What the language model sees of one image.

        Args:
            inputs: What the processor gives, on the device.
        """
        tokens, map_CHW = self.primary(inputs["pixel_values"], inputs["image_grid_thw"])
        pixels, boxes = inputs["aux_pixel_values"][0], inputs["region_boxes"][0]
        height, width = pixels.shape[1:]
        features = self.regions(self.auxiliary(pixels), map_CHW, boxes.float(), (width, height))
        return EncodedImages(
            [self.model.image_connector(tokens)],
            [self.model.region_connector(features.to(map_CHW.dtype))],
            inputs["image_grid_thw"],
        )

    @torch.inference_mode()
    def generate(self, ids: Tensor, encoded: EncodedImages, new_tokens: int) -> Tensor:
        """Exactly so many new tokens after a whole prompt (1, T), by transformers' loop."""
        written = self.model.generate(
            ids, encoded=encoded, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            do_sample=False, pad_token_id=self.processor.pad_token_id,
        )  # fmt: skip
        return written[0, ids.shape[1] :]

    def answer(self, image: Image.Image, boxes: Any, question: str, new_tokens: int) -> str:
        """A whole call: prepare, encode, generate, decode."""
        inputs = dict(self.processor([image], [question], [boxes]))
        inputs = {key: _moved(value, self.model.device) for key, value in inputs.items()}
        encoded = self.encode(inputs)
        return self.processor.decode(self.generate(inputs["input_ids"], encoded, new_tokens))


def _moved(value: Any, device: torch.device) -> Any:
    return [item.to(device) for item in value] if isinstance(value, list) else value.to(device)


def roi_align_mean(map_CHW: Tensor, boxes_N4: Tensor, scale: float) -> Tensor:
    """RoIAlign, sampled adaptively, and the mean over its bins: (N, C).

    Boxes of about the same number of samples go together: box after box, launches would cost more
    than they do, and no compiled RoIAlign is bound by those.
    """
    height, width = map_CHW.shape[1:]
    boxes = (boxes_N4 * scale).tolist()
    counts = [
        [math.ceil(max(high - low, 1.0) / BINS) * BINS for low, high in ((x1, x2), (y1, y2))]
        for x1, y1, x2, y2 in boxes
    ]
    order = sorted(range(len(boxes)), key=lambda number: counts[number])
    result = map_CHW.new_zeros(len(boxes), map_CHW.shape[0])
    for first in range(0, len(order), _BOXES_AT_ONCE):
        some = order[first : first + _BOXES_AT_ONCE]
        x, x_shares = _samples([(boxes[n][0], boxes[n][2], counts[n][0]) for n in some], width)
        y, y_shares = _samples([(boxes[n][1], boxes[n][3], counts[n][1]) for n in some], height)
        x, x_shares, y, y_shares = (t.to(map_CHW.device) for t in (x, x_shares, y, y_shares))
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
        sampled = F.grid_sample(
            map_CHW[None], grid.flatten(0, 1)[None], padding_mode="border", align_corners=True
        )[0].unflatten(1, (len(some), -1))  # (C, N, samples of y, samples of x)
        shares = y_shares[:, :, None] * x_shares[:, None, :]
        result[some] = torch.einsum("cnyx,nyx->nc", sampled, shares)
    return result


def box_position(
    boxes_N4: Tensor, size_wh: tuple[float, float], width: int, temperature: float
) -> Tensor:
    """Sine and cosine of centre y, centre x, width and height, a quarter of ``width`` each."""
    x1, y1, x2, y2 = boxes_N4.unbind(-1)
    image_w, image_h = size_wh
    places = [(y1 + y2) / 2 / image_h, (x1 + x2) / 2 / image_w]
    values_N4 = torch.stack([*places, (x2 - x1) / image_w, (y2 - y1) / image_h], dim=-1)
    steps = torch.arange(width // 4, device=boxes_N4.device)
    angles_N4Q = values_N4[..., None] * 2 * math.pi / temperature ** (steps // 2 * 2 / len(steps))
    return torch.where(steps % 2 == 0, angles_N4Q.sin(), angles_N4Q.cos()).flatten(1)


def _samples(edges: list[tuple[float, float, int]], length: int) -> tuple[Tensor, Tensor]:
    """Where to sample one axis, -1 to 1, and how much each sample counts: (N, most of them)."""
    most = max(count for _, _, count in edges)
    places, shares = torch.zeros(len(edges), most), torch.zeros(len(edges), most)
    for row, (low, high, count) in enumerate(edges):
        extent = max(high - low, 1.0)
        at = low + (torch.arange(count) + 0.5) * extent / count
        places[row, :count] = at / max(length - 1, 1) * 2 - 1
        shares[row, :count] = ((at >= -1) & (at <= length)) / count
    return places, shares
