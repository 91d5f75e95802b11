"""Maps of a frozen tower, computed once for images that come again.

With a hundred images and a thousand steps, most of a step on a CPU is a tower that learns nothing.
"""

from collections import OrderedDict
from hashlib import blake2b

import torch
from torch import Tensor, nn


class KeptMaps:
    """Stands in for the forward of a tower whose maps of an image depend on its pixels alone.

    While a parameter of the tower trains, everything is computed; so it is on a GPU, which is
    faster at that than at comparing pixels. Images are told apart by their bytes: a changed one
    (augmentation) is another.

    Args:
        tower: (I, 3, H, W) pixels to maps, each (I, C, h, w); its forward is replaced.
        most_bytes: Memory for maps; those not asked for longest leave first.
    """

    def __init__(self, tower: nn.Module, most_bytes: int) -> None:
        self.parameters, self.compute = list(tower.parameters()), tower.forward
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        tower.forward = self

    def __call__(self, pixels_I3HW: Tensor) -> list[Tensor]:
        """The maps, those of images seen before from memory."""
        trains = any(parameter.requires_grad for parameter in self.parameters)
        if trains or pixels_I3HW.device.type != "cpu":
            return self.compute(pixels_I3HW)
        names = [_name_of(pixels_3HW) for pixels_3HW in pixels_I3HW]
        found: dict[bytes, list[Tensor]] = {}
        for index, name in enumerate(names):
            if name not in found:
                found[name] = self._kept.get(name) or self._alone(pixels_I3HW[index])
            self._keep(name, found[name])
        return [torch.stack(stage) for stage in zip(*(found[name] for name in names), strict=True)]

    def _alone(self, pixels_3HW: Tensor) -> list[Tensor]:
        """Maps of one image.

        In a batch their last bits depend on the others, and a resumed run, which has nothing in
        memory, meets an image in other company.
        """
        return [stage[0].clone() for stage in self.compute(pixels_3HW[None])]

    def _keep(self, name: bytes, maps: list[Tensor]) -> None:
        if name in self._kept:
            self._kept.move_to_end(name)
            return
        self._kept[name] = maps
        self.bytes += _size_of(maps)
        while self.bytes > self.most_bytes:
            self.bytes -= _size_of(self._kept.popitem(last=False)[1])


def _name_of(pixels_3HW: Tensor) -> bytes:
    """What tells an image from others; under autocast maps have another type."""
    kind = f"{tuple(pixels_3HW.shape)} {torch.is_autocast_enabled('cpu')}".encode()
    return blake2b(
        pixels_3HW.float().contiguous().numpy().tobytes() + kind, digest_size=16
    ).digest()


def _size_of(maps: list[Tensor]) -> int:
    return sum(stage.nbytes for stage in maps)
