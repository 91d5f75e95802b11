"""SAM 3: named things with their masks in an image, and masks carried through a video."""

from vlm_fo1.proposers.sam3.detector import SAM3Proposer
from vlm_fo1.proposers.sam3.tracker import SAM3Tracker

__all__ = ["SAM3Proposer", "SAM3Tracker"]
