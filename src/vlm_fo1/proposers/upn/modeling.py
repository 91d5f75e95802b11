"""UPN: an image to class-free boxes, by a Swin backbone and a two-stage deformable detector.

Written from the recorded behaviour of the published network (paper: ChatRex, "Taming multimodal LLM
for joint perception and understanding", the universal proposal network); tests/parity holds it to
the recorded numbers.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlm_fo1.devices import dtype_of
from vlm_fo1.errors import PromptError
from vlm_fo1.proposers.upn.backbone import SwinBackbone
from vlm_fo1.proposers.upn.configuration import PROMPTS, WIDTH, UPNConfig
from vlm_fo1.proposers.upn.decoder import Decoder
from vlm_fo1.proposers.upn.encoder import Encoder
from vlm_fo1.proposers.upn.levels import Geometry, LevelProjection
from vlm_fo1.proposers.upn.selection import TwoStageSelection
from vlm_fo1.proposers.upn.weights import fill, read_checkpoint, write_checkpoint


class UPNOutput(NamedTuple):
    """Q boxes an image, in the order of the first stage's scores."""

    logits: Tensor
    """(B, Q) float32; the score of a box is its sigmoid."""
    boxes: Tensor
    """(B, Q, 4) float32 cx, cy, w, h in [0, 1] of the image without its padding."""


class UPN(nn.Module):
    """The universal proposal network."""

    def __init__(self, config: UPNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UPNConfig()
        self.backbone = SwinBackbone(config)
        self.levels = LevelProjection(config)
        self.encoder = Encoder(config)
        self.selection = TwoStageSelection(config)
        self.decoder = Decoder(config)
        self.prompts = nn.ParameterDict({name: torch.randn(1, WIDTH) for name in PROMPTS})

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: UPNConfig | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        strict: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> "UPN":
        """Load a folder or the released file.

        Args:
            path: A folder with ``config.json`` and ``model.safetensors``, a Hub id of such a one,
                or a file of weights: ``upn_large.pth`` (read with ``weights_only``) or safetensors.
            config: Sizes; by default the folder's, and UPN-large's for a bare file.
            device: Where to put it; the CPU if left out.
            dtype: ``"float32"`` or ``"bfloat16"``; as saved if left out.
            strict: Refuse tensors that have no place here. Without it they are named in a warning;
                a missing tensor is refused in any case.
            revision: Branch, tag or commit of a Hub id.
            token: For gated and private repositories.

        Returns:
            The network in evaluation mode.

        Raises:
            CheckpointError: No such file, or weights of another network: says what is missing, left
                over or of another shape.
            ConfigError: ``config.json`` has options that are not supported, or no such dtype.
        """
        kind = None if dtype is None else dtype_of(dtype)
        config, state = read_checkpoint(Path(path), config, revision=revision, token=token)
        with torch.device("meta"):  # takes no memory; every tensor is replaced
            model = cls(config)
        fill(model, state, window=config.window, source=str(path), strict=strict)
        return model.requires_grad_(False).to(device=device, dtype=kind).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, for `from_pretrained`."""
        write_checkpoint(Path(folder), self.config, self.state_dict())

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        prompt: str = "fine_grained",
    ) -> UPNOutput:
        """Find boxes.

        Args:
            pixel_values: (B, 3, H, W) normalised pixels; padding, right and below, is zero.
            pixel_mask: (B, H, W) bool, True where image; None for no padding.
            prompt: ``"fine_grained"`` for objects and their parts, ``"coarse_grained"`` for whole
                objects.

        Returns:
            Logits and boxes of ``config.queries`` queries, or as many as the maps have cells.

        Raises:
            PromptError: Another prompt.
        """
        if prompt not in PROMPTS:
            raise PromptError(f"prompt = {prompt!r}: UPN knows {' and '.join(map(repr, PROMPTS))}")
        prompt_D = self.prompts[prompt][0]
        maps = self.levels(self.backbone(pixel_values.to(prompt_D.dtype)))
        geometry = Geometry.of(maps, _if_padded(pixel_mask))
        memory_BSD = self.encoder(maps, geometry)
        chosen = self.selection(memory_BSD, geometry, prompt_D)
        decoded = self.decoder(memory_BSD, geometry, chosen.references_BQ4)
        return UPNOutput(decoded.hidden_BQD.float() @ prompt_D.float(), decoded.boxes_BQ4)


def _if_padded(pixel_mask: Tensor | None) -> Tensor | None:
    """None for a mask without padding: then nothing has to be masked. A graph keeps its mask."""
    if pixel_mask is None or torch.compiler.is_compiling():
        return pixel_mask
    return None if bool(pixel_mask.all()) else pixel_mask.bool()
