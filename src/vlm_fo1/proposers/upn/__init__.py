"""UPN, the universal proposal network: class-free boxes of everything in an image."""

from vlm_fo1.proposers.upn.configuration import PROMPTS, UPNConfig
from vlm_fo1.proposers.upn.modeling import UPN, UPNOutput
from vlm_fo1.proposers.upn.onnx import OnnxUPN, export_onnx
from vlm_fo1.proposers.upn.proposer import OFFICIAL_FILTER, UPNProposer, regions_of

__all__ = [
    "OFFICIAL_FILTER",
    "PROMPTS",
    "UPN",
    "OnnxUPN",
    "UPNConfig",
    "UPNOutput",
    "UPNProposer",
    "export_onnx",
    "regions_of",
]
