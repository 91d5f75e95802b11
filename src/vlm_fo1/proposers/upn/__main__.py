"""Export UPN to ONNX: ``python -m vlm_fo1.proposers.upn upn_large.pth upn.onnx``."""

import argparse
from collections.abc import Sequence

from vlm_fo1.proposers.upn.configuration import PROMPTS
from vlm_fo1.proposers.upn.modeling import UPN
from vlm_fo1.proposers.upn.onnx import export_onnx
from vlm_fo1.proposers.upn.preprocessing import LONGER_MAX, SHORTER


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m vlm_fo1.proposers.upn", description=__doc__)
    parser.add_argument("weights", help="upn_large.pth, or a folder with config.json")
    parser.add_argument("output", help="the ONNX file to write; its weights go beside it")
    size = (LONGER_MAX, SHORTER)
    parser.add_argument("--size", nargs=2, type=int, default=size, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--prompt", choices=PROMPTS, default=PROMPTS[0])
    options = parser.parse_args(arguments)
    model = UPN.from_pretrained(options.weights, dtype="float32")
    export_onnx(model, options.output, size_wh=tuple(options.size), prompt=options.prompt)


if __name__ == "__main__":
    main()
