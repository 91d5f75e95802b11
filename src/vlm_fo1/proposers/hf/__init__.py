"""Detectors of transformers as proposers."""

from vlm_fo1.proposers.hf.proposer import DetectorProposer

__all__ = ["DetectorProposer"]
