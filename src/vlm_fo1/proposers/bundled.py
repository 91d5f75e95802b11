"""The bundled proposer: a small network that boxes things of any kind.

A convolutional encoder with a top-down path; every cell of its stride-4 map gives one box and the
overlap that this box is expected to have with a thing. B is the batch, H and W the padded image
in pixels, h = H / 4 and w = W / 4 the cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vlm_fo1.boxes import nms
from vlm_fo1.config import build, plain, read_object
from vlm_fo1.devices import dtype_of
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.proposers.base import Selection, check_queries, ranked
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.regions import Regions

STRIDE = 4
"""Pixels of the resized image per cell."""
MULTIPLE = 32
"""Images are padded to a multiple of this many pixels."""
GREY = 128
"""Level of the padding, which the network sees as zero."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

_VERSION = 1  # of preparation and decoding: raise it whenever the same weights give other boxes


@dataclass(frozen=True, kw_only=True)
class BoxNetworkConfig:
    """Sizes of the network and how its boxes are read."""

    widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 112)
    """Channels at strides 2, 4, 8, 16 and 32."""
    blocks: tuple[int, int, int, int] = (1, 1, 2, 1)
    """Residual blocks at strides 4, 8, 16 and 32."""
    neck: int = 48
    """Channels of the top-down path."""
    long_side: int = 320
    """An image with a longer side is scaled down to this many pixels."""
    candidates: int = 500
    """Greatest number of cells that give a box, best first; each scores above its neighbours."""
    floor: float = 0.01
    """Cells with a lower score hold no thing."""
    nms_iou: float = 0.6
    """Cells of one thing agree: a box that overlaps a better one more than this is dropped."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be.

        Raises:
            ConfigError: A size below 1 (blocks: below 0), or a share outside [0, 1].
        """
        sizes = (*self.widths, self.neck, self.long_side, self.candidates)
        if min(sizes) < 1 or min(self.blocks) < 0:
            raise ConfigError(f"{self}: sizes must be at least 1, blocks at least 0")
        if not (0 <= self.floor <= 1 and 0 <= self.nms_iou <= 1):
            raise ConfigError(f"{self}: floor and nms_iou are shares, from 0 to 1")


class BoxNetwork(nn.Module):
    """Pixels to one scored box per cell."""

    def __init__(self, config: BoxNetworkConfig) -> None:
        super().__init__()
        self.stem = _conv(3, config.widths[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                _conv(before, width, stride=2), *(_Residual(width) for _ in range(blocks))
            )
            for before, width, blocks in zip(
                config.widths, config.widths[1:], config.blocks, strict=False
            )
        )
        self.laterals = nn.ModuleList(_conv(width, config.neck, 1) for width in config.widths[1:])
        self.tail = nn.Sequential(_conv(config.neck, config.neck), _conv(config.neck, config.neck))
        self.score = nn.Conv2d(config.neck, 1, 1)
        self.sides = nn.Conv2d(config.neck, 4, 1)
        nn.init.constant_(self.score.bias, -4.0)  # type: ignore[arg-type]  # things are few
        nn.init.normal_(self.sides.weight, std=0.01)
        nn.init.constant_(self.sides.bias, 1.9)  # type: ignore[arg-type]  # boxes of about 54 px

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Score and box of every cell.

        Args:
            pixels: (B, 3, H, W) levels 0 to 255; H and W multiples of `MULTIPLE`.

        Returns:
            (B, h*w) score logits, and (B, h*w, 4) float32 xyxy boxes in pixels of the input, which
            may stick out of it.
        """
        feature = self.stem((pixels - GREY) / 64)
        maps: list[Tensor] = []
        for stage in self.stages:
            feature = stage(feature)
            maps.append(feature)
        joined: Tensor | None = None
        for lateral, feature in zip(reversed(self.laterals), reversed(maps), strict=False):
            own = lateral(feature)
            joined = (
                own if joined is None else own + functional.interpolate(joined, scale_factor=2.0)
            )
        joined = self.tail(joined)
        logits = self.score(joined).float().flatten(1)
        sides = self.sides(joined).float()
        centres_xy = cell_centres(sides.shape[2], sides.shape[3]).to(sides)
        reach = sides.flatten(2).transpose(1, 2).clamp(max=6).exp() * STRIDE
        boxes = torch.cat([centres_xy - reach[..., :2], centres_xy + reach[..., 2:]], dim=-1)
        return logits, boxes


def cell_centres(rows: int, columns: int) -> Tensor:
    """(rows * columns, 2) float32 x and y of the middle of every cell in pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * STRIDE


class BundledProposer:
    """Boxes of things of any kind, with nothing to download; for images like our scenes.

    Args:
        network: Trained.
        config: Of the network.
        fingerprint: Names the weights.
    """

    name = "tiny"
    requires_labels = False
    selection = Selection(min_score=0.35, nms_iou=0.7, limit=100)
    """Boxes that score less cover no further thing and mislead the model: docs/proposers."""

    def __init__(self, network: BoxNetwork, config: BoxNetworkConfig, fingerprint: str) -> None:
        self.config = config
        self.fingerprint = fingerprint
        self._network = _fused(network.eval()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_pretrained(
        cls,
        argument: str | Path = "",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "BundledProposer":
        """Load the bundled weights, or those of a folder that training wrote.

        Args:
            argument: Folder with ``config.json`` and ``model.safetensors``; empty for the bundled.
            device: Where to compute; the CPU by default.
            dtype: What to compute in; float32 by default.

        Raises:
            CheckpointError: A file is missing or broken, or the weights are of another network.
            ConfigError: A dtype that torch does not have.
        """
        folder = Path(argument) if argument else Path(str(files("vlm_fo1"))) / _ASSETS
        weights = folder / WEIGHTS_FILE
        try:
            config = build(BoxNetworkConfig, read_object(folder / CONFIG_FILE))
            state = {name: value.float() for name, value in load_file(weights).items()}
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} is no bundled proposer ({error}): it needs {CONFIG_FILE} and "
                f"{WEIGHTS_FILE} as python -m recipes.tiny_proposer writes them"
            ) from error
        network = BoxNetwork(config)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"{weights} holds another network: {error}") from error
        kind = dtype_of(dtype or torch.float32)
        fingerprint = digest_of(cls.name, _VERSION, str(kind), plain(config), state)
        proposer = cls(network, config, fingerprint)
        proposer._network.to(device=device, dtype=kind)
        return proposer

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """See `vlm_fo1.proposers.base.Proposer`; each image is computed alone.

        Raises:
            PromptError: Queries are given.
            BoxError: The network gave numbers that are none.
        """
        check_queries(self.name, queries, needed=False)
        return [self._regions(image) for image in images]

    @torch.inference_mode()
    def _regions(self, image: Image.Image) -> Regions:
        weight = self._network.score.weight
        pixels, scale_xy = prepare(image, self.config.long_side)
        pixels = pixels.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        logits, boxes = self._network(pixels)
        scores = logits[0].sigmoid()
        # A score that is no number counts as high, so that broken weights are told of.
        high = scores.nan_to_num(nan=1.0)
        rows, columns = (side // STRIDE for side in pixels.shape[2:])
        peak = functional.max_pool2d(high.view(1, rows, columns), 3, stride=1, padding=1).flatten()
        best = (high * (high == peak)).topk(min(self.config.candidates, len(high))).indices
        best = best[(high == peak)[best] & (high[best] >= self.config.floor)]
        found = ranked(
            boxes[0, best].cpu().numpy() / np.array([*scale_xy, *scale_xy], np.float32),
            scores[best].cpu().numpy(),
            image.size,
            name=self.name,
        )
        assert found.scores is not None  # `ranked` was given some
        return found[nms(found.xyxy, found.scores, self.config.nms_iou)]


def prepare(image: Image.Image, long_side: int) -> tuple[Tensor, tuple[float, float]]:
    """Scale an image down and pad it at the right and the bottom.

    Args:
        image: Any size and mode; not changed.
        long_side: Greatest side afterwards in pixels.

    Returns:
        (1, 3, H, W) uint8 with sides that are multiples of `MULTIPLE`, and how many of its pixels a
        pixel of the image is, along x and y.
    """
    scale = min(1.0, long_side / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.convert("RGB")
    if small.size != (width, height):
        small = small.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    across, down = (-(-side // MULTIPLE) * MULTIPLE for side in (width, height))
    padded = np.full((down, across, 3), GREY, np.uint8)
    padded[:height, :width] = np.asarray(small)
    pixels = torch.from_numpy(padded).permute(2, 0, 1)[None]
    return pixels, (width / image.width, height / image.height)


_ASSETS = Path("assets") / "tiny-proposer"


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = _conv(width, width, active=False)

    def forward(self, feature: Tensor) -> Tensor:
        return functional.relu(feature + self.second(self.first(feature)))


def _conv(
    inside: int, outside: int, kernel: int = 3, *, stride: int = 1, active: bool = True
) -> nn.Sequential:
    """A convolution with its normalisation, and a ReLU unless told otherwise."""
    layers: list[nn.Module] = [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if active else []))


def _fused(network: BoxNetwork) -> BoxNetwork:
    """Work every normalisation into the convolution before it; changes the network."""
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1:
            conv, norm = module[0], module[1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[0], module[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network
