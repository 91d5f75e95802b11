"""SAM 3's tracker: masks of one frame, carried to the frames after it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional
from transformers import Sam3TrackerVideoModel
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoInferenceSession,
)

from vlm_fo1.errors import BoxError
from vlm_fo1.proposers.sam3.detector import SAM3Proposer
from vlm_fo1.proposers.sam3.loading import load_network, masks_at, pixels_of
from vlm_fo1.regions import Regions

KINDS = ("sam3_video", "sam3_tracker_video")
"""Values of ``model_type`` whose checkpoints hold the tracker; the released one is the first."""

_TOP_LEFT, _BOTTOM_RIGHT = 2, 3
"""How the tracker is told that a point is a corner of a box."""


class SAM3Tracker:
    """Follows things through a video, whatever found them; safe to use from several threads.

    Args:
        model: The tracker, a `Sam3TrackerVideoModel` in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        argument: str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> "SAM3Tracker":
        """Load the tracker of a SAM 3 checkpoint.

        Args:
            argument: A folder, or a Hub id such as ``facebook/sam3``.
            device: By default CUDA where there is one.
            dtype: By default float32 on the CPU, else as saved.
            revision: Branch, tag or commit of a Hub id.
            token: For gated and private repositories.

        Raises:
            CheckpointError: No such checkpoint, or weights of another network.
            ConfigError: Nothing to load was named, or no such device or dtype here.
        """
        hub = {"revision": revision, "token": token}
        network = Sam3TrackerVideoModel
        return cls(load_network(network, argument, KINDS, device=device, dtype=dtype, **hub))

    @classmethod
    def beside(cls, proposer: SAM3Proposer) -> "SAM3Tracker":
        """The tracker of the checkpoint that a proposer was loaded from.

        Both have one image encoder, half of all weights: it is held once.

        Args:
            proposer: Made by `SAM3Proposer.from_pretrained`.

        Raises:
            CheckpointError: The checkpoint has no tracker.
            ConfigError: The proposer was made from a network in memory.
        """
        device, dtype = proposer.model.device, proposer.model.dtype
        found = cls.from_pretrained(proposer.source, device=device, dtype=dtype, **proposer.hub)
        found.model.vision_encoder.backbone = proposer.model.vision_encoder.backbone
        return found

    def start(self, image: Image.Image, regions: Regions) -> "SAM3Track":
        """Begin to follow things.

        Args:
            image: The first frame.
            regions: What to follow in it: by their masks, or by their boxes without masks.

        Returns:
            A track whose next frame is this first one.

        Raises:
            BoxError: There are no regions.
        """
        if not len(regions):
            raise BoxError("a tracker needs something to follow: pass at least one region")
        session = Sam3TrackerVideoInferenceSession(
            video_height=image.height,
            video_width=image.width,
            inference_device=self.model.device,
            dtype=self.model.dtype,
        )
        side = self.model.config.image_size
        for index in range(len(regions)):
            session.obj_id_to_idx(index)
            if regions.masks is None or not regions.masks[index].any():
                session.add_point_inputs(index, 0, _corners(regions, index, side))
            else:
                session.add_mask_inputs(index, 0, _squared(regions.masks[index], side))
        session.obj_with_new_inputs = list(range(len(regions)))
        return SAM3Track(self.model, session)


class SAM3Track:
    """Things being followed; made by `SAM3Tracker.start`, used by one thread.

    Args:
        model: The tracker.
        session: What it knows of the video so far.
    """

    def __init__(self, model: Any, session: Any) -> None:
        self.model = model
        self.session = session
        self._next = 0
        self._reach = max(model.config.num_maskmem, model.config.max_object_pointers_in_encoder)

    @torch.inference_mode()
    def follow(self, image: Image.Image) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Find the things in the next frame.

        Args:
            image: The frame after the one of the last call; first the one that `start` saw.

        Returns:
            Masks (N, H, W) bool, one a region of `start` in its order, empty where the thing is
            out of sight; and (N,) the probability that it is in sight.

        Raises:
            BoxError: The network returned what is no number.
        """
        pixels = pixels_of(image, self.model.config.image_size).to(self.model.dtype)
        found = self.model(
            inference_session=self.session,
            frame=pixels.to(self.model.device),
            frame_idx=self._next,
        )
        self._forget()
        maps = found.pred_masks[:, 0].float()
        scores = found.object_score_logits.float().reshape(-1).sigmoid()
        if not (maps.isfinite().all() and scores.isfinite().all()):
            raise BoxError(
                "the tracker of sam3 returned what is no number: its weights are broken or "
                "overflowed; try dtype='float32'"
            )
        return masks_at(maps, image.size, threshold=0.0), scores.cpu().numpy()

    def _forget(self) -> None:
        """Drop what no later frame looks at: memory must not grow with the video."""
        self.session.processed_frames.pop(self._next, None)
        for outputs in self.session.output_dict_per_obj.values():
            for kind in outputs.values():
                kind.get(self._next, {}).pop("high_res_masks", None)
            outputs["non_cond_frame_outputs"].pop(self._next - self._reach, None)
        self._next += 1


def _squared(mask: npt.NDArray[np.bool_], side: int) -> torch.Tensor:
    """(1, 1, side, side), 1 where the thing is; a thin thing keeps at least its best pixel."""
    levels = torch.from_numpy(np.array(mask)).float()[None, None]
    square = functional.interpolate(levels, (side, side), mode="bilinear", antialias=True)
    return (square >= min(0.5, float(square.max()))).float()


def _corners(regions: Regions, index: int, side: int) -> dict[str, torch.Tensor]:
    factor = side / np.array(regions.size_wh * 2, np.float32)
    points = torch.from_numpy(regions.xyxy[index] * factor).float().reshape(1, 1, 2, 2)
    labels = torch.tensor([[[_TOP_LEFT, _BOTTOM_RIGHT]]], dtype=torch.int32)
    return {"point_coords": points, "point_labels": labels}
