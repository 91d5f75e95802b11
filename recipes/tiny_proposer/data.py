"""Images for the bundled proposer: a pool on disk to train on, fresh ones to measure on."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.render import render
from recipes.synthetic.sprites import load_sprites
from vlm_fo1.config import differences, plain
from vlm_fo1.errors import CheckpointError
from vlm_fo1.proposers.bundled import GREY

SHARD = 250
"""Images per file of a pool."""
_FRESH = 1_000_003  # added to the seed: images to measure on are of another stream


class ImagePool:
    """Rendered images in files of uint8 levels; what is there is not rendered again.

    Args:
        folder: Of the pool.
        kinds: Settings of the kinds of images, which take turns.
        seed: Of the stream.
        count: Number of images.

    Raises:
        CheckpointError: The folder holds other images.
    """

    def __init__(
        self, folder: Path, kinds: Sequence[SyntheticConfig], seed: int, count: int
    ) -> None:
        self.folder, self.kinds, self.seed, self._count = folder, tuple(kinds), seed, count
        folder.mkdir(parents=True, exist_ok=True)
        facts = json.loads(json.dumps({"seed": seed, "images": plain(self.kinds)}))
        note = folder / "pool.json"
        if not note.is_file():
            note.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        changes = differences(json.loads(note.read_text(encoding="utf-8")), facts)
        if changes:
            raise CheckpointError(
                f"{folder} holds other images ({'; '.join(changes)}): give the run a new folder"
            )
        self._open: dict[int, tuple[safe_open, npt.NDArray[np.int64], npt.NDArray[np.float32]]] = {}

    def __len__(self) -> int:
        return self._count

    def fill(self) -> Iterator[int]:
        """Render what is missing; gives the number of images that are there, file by file."""
        for start in range(0, self._count, SHARD):
            end = min(start + SHARD, self._count)
            if not self._path(start // SHARD).is_file():
                self._render(start, end)
            yield end

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """(H, W, 3) levels and (N, 4) xyxy boxes of an image."""
        shard, place = divmod(index, SHARD)
        if shard not in self._open:
            file = safe_open(self._path(shard), framework="np")
            self._open[shard] = (file, file.get_tensor("images"), file.get_tensor("boxes"))
        file, images, boxes = self._open[shard]
        pixel, width, height, first, count = images[place].tolist()
        levels = file.get_slice("levels")[pixel : pixel + width * height * 3]
        return levels.reshape(height, width, 3), boxes[first : first + count]

    def _path(self, shard: int) -> Path:
        return self.folder / f"images-{shard:05d}.safetensors"

    def _render(self, start: int, end: int) -> None:
        levels: list[npt.NDArray[np.uint8]] = []
        boxes: list[npt.NDArray[np.float32]] = []
        rows: list[tuple[int, int, int, int, int]] = []
        pixel = first = 0
        for index in range(start, end):
            config = self.kinds[index % len(self.kinds)]
            rng = np.random.default_rng([self.seed, index])
            rendered = render(config, load_sprites(config.sprites), rng)
            levels.append(np.asarray(rendered.image).reshape(-1))
            boxes.append(rendered.boxes_xyxy)
            rows.append((pixel, *rendered.image.size, first, len(boxes[-1])))
            pixel, first = pixel + len(levels[-1]), first + len(boxes[-1])
        path = self._path(start // SHARD)
        part = path.with_suffix(".part")
        tensors = {"levels": levels, "boxes": boxes}
        save_file(
            {"images": np.array(rows)} | {key: np.concatenate(v) for key, v in tensors.items()},
            part,
        )
        part.replace(path)


class PoolSource:
    """Images of a pool in one order after another without end, as (place in the stream, index).

    Args:
        count: Images of the pool.
        seed: Of the orders.
        shard: Which places this source has: ``shard``, ``shard + shards``, and so on.
        shards: How many sources share the stream.
    """

    def __init__(self, count: int, seed: int, shard: int, shards: int) -> None:
        self.count, self.seed, self.place, self.shards = count, seed, shard, shards

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go on from where the state says."""
        while True:
            place, self.place = self.place, self.place + self.shards
            epoch, position = divmod(place, self.count)
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(self.count)
            yield place, int(order[position])

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where a state says."""
        self.place = state["place"]


def fresh_images(
    config: SyntheticConfig, seed: int, count: int
) -> tuple[list[Image.Image], list[npt.NDArray[np.float32]]]:
    """Images that no pool of this seed holds, and the (N, 4) boxes of what is in them."""
    sprites = load_sprites(config.sprites)
    images = [
        render(config, sprites, np.random.default_rng([seed + _FRESH, index]))
        for index in range(count)
    ]
    return [rendered.image for rendered in images], [rendered.boxes_xyxy for rendered in images]


def altered(
    image: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    rng: np.random.Generator,
    *,
    side: int,
    zoom: tuple[float, float],
    gain: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A scaled, cut, mirrored and recoloured image.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) xyxy.
        rng: Decides.
        side: Of the result in pixels, S.
        zoom: Least and greatest scaling before the cut.
        gain: Greatest share by which contrast and each colour change.

    Returns:
        (S, S, 3) float32 levels, and (M, 5) float32: xyxy and the share of the box that the cut
        left; boxes that are gone are left out.
    """
    zoom_xy = np.exp(rng.uniform(*np.log(zoom))) * np.exp(rng.uniform(-0.08, 0.08, 2))
    size_wh = np.array([image.shape[1], image.shape[0]])
    window = np.minimum(side / zoom_xy, size_wh)
    corner = rng.uniform(0, 1, 2) * (size_wh - window)
    inner = np.maximum(1, np.minimum(side, np.round(window * zoom_xy))).astype(int)
    piece = Image.fromarray(image).resize(
        (int(inner[0]), int(inner[1])),
        Image.Resampling.BILINEAR,
        box=(*corner.tolist(), *(corner + window).tolist()),
    )
    moved = (boxes.reshape(-1, 2, 2) - corner) * (inner / window)
    cut = np.clip(moved, 0, inner)
    areas = [np.prod(each[:, 1] - each[:, 0], axis=1) for each in (cut, moved)]
    left = np.divide(areas[0], areas[1], out=np.zeros(len(cut)), where=areas[1] > 0)
    found = np.concatenate([cut.reshape(-1, 4), left[:, None]], axis=1)[left > 0]
    levels = np.asarray(piece, np.float32)
    if rng.random() < 0.5:
        levels = levels[:, ::-1]
        found[:, [0, 2]] = inner[0] - found[:, [2, 0]]
    gains = (1 + rng.uniform(-gain, gain)) * (1 + rng.uniform(-gain, gain, 3) / 2)
    shift = rng.uniform(-40, 40) * gain / 0.25
    canvas = np.full((side, side, 3), GREY, np.float32)
    recoloured = (levels - GREY) * gains.astype(np.float32) + np.float32(GREY + shift)
    canvas[: inner[1], : inner[0]] = np.clip(recoloured, 0, 255)
    return canvas, found.astype(np.float32)
