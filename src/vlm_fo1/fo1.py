"""From a picture and a question to an answer: `FO1`.

`FO1` is a model with its processor and, perhaps, a proposer; it holds no state between calls, so
threads may share one. `Scene` (in `vlm_fo1.scene`) is one encoded image for many questions.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from vlm_fo1.answer import Answer
from vlm_fo1.boxes import check, iou
from vlm_fo1.devices import check_device, dtype_of
from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.formats.boxes import given_regions
from vlm_fo1.images import read_framed, read_image
from vlm_fo1.merging import joined
from vlm_fo1.model.load_options import load_options
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import read_config, resolve_folder
from vlm_fo1.processing import FO1Processor
from vlm_fo1.proposers.base import (
    DEFAULT_SELECTION,
    Proposer,
    Selection,
    default_proposer,
    load_proposer,
    select,
    selection_of,
)
from vlm_fo1.regions import Regions
from vlm_fo1.scene import Scene
from vlm_fo1.sight import Network, OnText, Writing
from vlm_fo1.tasks import (
    MAX_NEW_TOKENS,
    Task,
    as_list,
    ask_grounded_caption,
    ask_identify,
    caption_task,
)
from vlm_fo1.tiling import Area, fitting_tile, tiles

__all__ = ["DEFAULT_SELECTION", "FO1", "MAX_NEW_TOKENS", "Scene"]

Tile = int | Literal["auto"] | None
"""Side of tiles in pixels, "auto" for what the things of the picture need, None for no tiles."""

PROPOSED_AT_ONCE = 8
"""How many tiles a proposer gets in one call."""


class FO1:
    """VLM-FO1 for people: pictures and boxes in, answers that point at boxes out.

    Every asking method takes ``boxes``: an array of (x1, y1, x2, y2) in pixels of the image as
    displayed, `Regions`, or a JSON or COCO file (see `proposers.given`). Without them the proposer
    is asked, if there is one; ``boxes=[]`` asks without any. Besides, each takes

    - ``max_new_tokens``: length limit of an answer in tokens; the model's context may leave less;
    - ``on_text``: is called with the text as it is written;
    - ``queries``: what a proposer that looks for named things shall look for; the labels of the
      question unless said otherwise;
    - ``tile``: see `open`; "auto" for `detect` and `count`, else None;
    - ``allow_url``: whether http(s) URLs are fetched.

    What cannot be asked is refused before anything looks at the image.

    Args:
        model: The network, in evaluation mode.
        processor: Its processor.
        proposer: Offers regions where no boxes are given: a proposer, or a name for
            `load_proposer`, which is then loaded when it is first needed.
        selection: Which of its boxes are used; by default the proposer's own ``selection`` if it
            has one, else `DEFAULT_SELECTION`. Boxes that are given are used as they are.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        processor: FO1Processor,
        proposer: Proposer | str | None = None,
        *,
        selection: Selection | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.tag_ids = processor.region_tag_ids()
        self._proposer = proposer
        self._selection = selection
        self._lock = threading.Lock()

    @property
    def proposer(self) -> Proposer | None:
        """What offers regions where no boxes are given."""
        with self._lock:
            if isinstance(self._proposer, str):
                self._proposer = load_proposer(self._proposer, **_on_device(self.model.device))
            return self._proposer

    @property
    def selection(self) -> Selection:
        """Which of the proposer's boxes are used."""
        if self._selection is not None:
            return self._selection
        proposer = self.proposer
        return DEFAULT_SELECTION if proposer is None else selection_of(proposer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "tiny",
        *,
        proposer: Proposer | str | None = None,
        selection: Selection | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        strict: bool = False,
        **options: Any,
    ) -> "FO1":
        """Load a model and its processor.

        What the configuration and the tokenizer have to say is read before weights are fetched.

        Args:
            name: ``"tiny"`` for the bundled model, a folder, or a Hub id.
            proposer: Offers regions where no boxes are given: a proposer or a name for
                `load_proposer`, loaded on the model's device, with ``token`` and ``strict``. By
                default the one that comes with the model: the bundled one for ``"tiny"``, none for
                others.
            selection: See the class.
            device: ``"cuda"``, ``"cpu"``, ...; ``"auto"`` spreads over all devices. By default CUDA
                where there is one.
            dtype: Of the weights; by default float32 on the CPU, else as saved.
            revision: Branch, tag or commit of a Hub id.
            cache_dir: Where downloads are kept.
            local_files_only: Never ask the Hub.
            token: For gated and private repositories.
            strict: Refuse weights with tensors that are not used; else they are named in a warning.
            **options: For the model, as in transformers: ``attn_implementation``,
                ``quantization_config``, ``load_in_8bit``, ... (see `model.load_options`);
                ``torch_dtype`` and ``device_map`` mean ``dtype`` and ``device``.

        Raises:
            CheckpointError: There is no such checkpoint, or its weights do not fit.
            ConfigError: No such device, dtype, option or proposer here.
            MissingExtraError: A package that the tokenizer or an option needs is not installed.
        """
        options = load_options({**options, "dtype": dtype}, also=_LOADING)
        dtype, device_map = options.pop("dtype", None), options.pop("device_map", None)
        if device is not None and device_map is not None:
            raise ConfigError(f"device = {device} and device_map = {device_map}: pass device alone")
        device = device_map if device is None else device
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype is None:
            dtype = torch.float32 if str(device) == "cpu" else "auto"
        if not isinstance(device, dict) and str(device) not in _SPREAD:
            check_device(device)
        if dtype != "auto":
            dtype_of(dtype)
        hub: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
        }
        folder = resolve_folder(name, check=read_config, weights=False, **hub)
        processor = FO1Processor.from_pretrained(folder)
        model = FO1ForConditionalGeneration.from_pretrained(
            name, device_map=device, dtype=dtype, strict=strict, **hub, **options
        )
        if proposer is None:
            proposer = default_proposer(name)  # loaded when boxes are first left out
        elif isinstance(proposer, str):
            place = _on_device(model.device)
            proposer = load_proposer(proposer, token=token, strict=strict or None, **place)
        return cls(model, processor, proposer, selection=selection)

    def selecting(self, selection: Selection) -> "FO1":
        """The same model and proposer with another selection of proposals."""
        return FO1(self.model, self.processor, self.proposer, selection=selection)

    def seeing(self, image_size: int | None) -> "FO1":
        """The same model, which sees images at another size.

        Args:
            image_size: The short side is brought to so many pixels, up too, as far as the long side
                stays within the model's limit; 1024 is the official preparation of the demos with
                SAM 3. None takes images as they come. Boxes and answers stay in pixels of the
                image.

        Raises:
            ConfigError: It is too small.
        """
        own = self.processor
        images = own.image_processor.with_image_size(image_size)
        processor = FO1Processor(
            images,
            own.tokenizer,
            vocabulary=own.vocabulary,
            chat=own.chat,
            image_token_id=own.image_token_id,
            region_token_id=own.region_token_id,
        )
        return FO1(self.model, processor, self.proposer, selection=self._selection)

    def open(
        self,
        image: Any,
        boxes: Any = None,
        *,
        queries: str | Sequence[str] | None = None,
        tile: Tile = "auto",
        image_size: int | None = None,
        allow_url: bool = False,
    ) -> Scene:
        """Encode an image and its regions once, for many questions.

        Args:
            image: A path, bytes, a PIL image, an array, a data URL, or with ``allow_url`` a URL.
            boxes: See the class; None asks the proposer, or where there is none, opens an image
                without regions.
            queries: What the proposer shall look for, if it looks for named things.
            tile: Side in pixels of overlapping tiles, for large images of small things: the
                proposer looks at each tile besides the whole image, and `Scene.detect` and
                `Scene.count` ask about each tile in its own pixels. By default "auto": such tiles
                as the regions need to be recognised (see `vlm_fo1.tiling.fitting_tile`), none
                where they are seen well; None for the whole image whatever is in it.
            image_size: See `seeing`.
            allow_url: Whether http(s) URLs are fetched.

        Returns:
            The scene.

        Raises:
            ImageError: The image cannot be read.
            BoxError: A box cannot be used.
            PromptError: The proposer looks for named things and there are no queries.
            ConfigError: ``tile`` or ``image_size`` is too small.
        """
        if image_size is not None:
            fo1 = self.seeing(image_size)
            return fo1.open(image, boxes, queries=queries, tile=tile, allow_url=allow_url)
        return self._scene(None, image, boxes, queries, tile, allow_url)

    def detect(
        self,
        image: Any,
        labels: str | Sequence[str],
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = "auto",
        allow_url: bool = False,
    ) -> Answer:
        """Find everything that one of the labels names."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        question = self._network().about_labels(Task.DETECTION, labels)
        queries = queries or question.labels
        scene = self._scene("detect", image, boxes, queries, tile, allow_url)
        return scene.put(question, writing)

    def count(
        self,
        image: Any,
        label: str,
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = "auto",
        allow_url: bool = False,
    ) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        question = self._network().about_labels(Task.COUNTING, label)
        queries = queries or question.labels
        scene = self._scene("count", image, boxes, queries, tile, allow_url)
        return scene.put(question, writing)

    def refer(
        self,
        image: Any,
        phrase: str,
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Find what a phrase describes, e.g. "the orange nearest the apple"."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        question = self._network().about_labels(Task.REFERRING, phrase)
        queries = queries or question.labels
        scene = self._scene("refer", image, boxes, queries, tile, allow_url)
        return scene.put(question, writing)

    def describe(
        self,
        image: Any,
        boxes: Any = None,
        *,
        detail: Literal["brief", "detailed"] = "brief",
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Say what stands in each box; one mention a box, the words as its label."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        task = caption_task(detail)
        scene = self._scene("describe", image, boxes, queries, tile, allow_url)
        return scene.put_each(task, None, writing)

    def read_text(
        self,
        image: Any,
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Read the writing in each box; one mention a box, the writing as its label."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        scene = self._scene("read_text", image, boxes, queries, tile, allow_url)
        return scene.put_each(Task.REGION_OCR, None, writing)

    def match(
        self,
        image: Any,
        box: Any,
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Find more of what stands in ``box`` among ``boxes``.

        The reference box is region 0 of the answer; a candidate that is all but the same box is
        left out, the others follow in their order.

        Raises:
            BoxError: ``box`` is not one usable box.
        """
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        self._check_offered(boxes, "match")
        picture, frame = read_framed(image, allow_url=allow_url)
        try:
            example = given_regions(box, frame, image=_name(image))
        except BoxError as error:
            raise BoxError(f"the reference box of match: {error}") from error
        if len(example) != 1:
            raise BoxError(f"match takes one reference box, got {len(example)}")
        found: dict[str, Any]
        if boxes is not None:
            offer = given_regions(boxes, frame, image=_name(image))
            found = {"regions": offer.regions, "notes": offer.notes}
        else:
            found = self._propose(picture, queries, tile)
        found["regions"] = _first(example.regions, found["regions"])
        found["notes"] = list(dict.fromkeys([*example.notes, *found.get("notes", ())]))
        return self._opened(picture, **found).match(0, **writing.options())

    def ground(
        self,
        image: Any,
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Describe the image and point at everything mentioned."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        scene = self._scene("ground", image, boxes, queries, tile, allow_url)
        return scene.put(ask_grounded_caption(), writing)

    def identify(
        self,
        image: Any,
        boxes: Any = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Name every object of the image, with its regions."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        scene = self._scene("identify", image, boxes, queries, tile, allow_url)
        return scene.put(ask_identify(), writing)

    def reason(
        self,
        image: Any,
        question: str,
        boxes: Any = None,
        *,
        about: Sequence[int] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Think aloud, then answer, with regions as evidence; ``about`` as in `ask`."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        self._network().in_words(Task.REASONING, question)  # refused before anything is looked at
        scene = self._scene(None, image, boxes, queries, tile, allow_url)
        return scene.reason(question, about=about, **writing.options())

    def ask(
        self,
        image: Any,
        question: str,
        boxes: Any = None,
        *,
        about: Sequence[int] = (),
        images: Sequence[Any] = (),
        system: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
        queries: str | Sequence[str] | None = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Answer:
        """Ask anything.

        ``about=[3]`` puts region 3 where ``{}`` stands in the question; `Scene.ask` says what
        ``images`` and ``system`` are.
        """
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        self._network().in_words(Task.FREE, question)  # refused before anything is looked at
        more = [read_image(one, allow_url=allow_url) for one in as_list(images, "images")]
        scene = self._scene(None, image, boxes, queries, tile, allow_url)
        return scene.ask(question, about=about, images=more, system=system, **writing.options())

    def _scene(
        self,
        needs: str | None,
        image: Any,
        boxes: Any,
        queries: str | Sequence[str] | None,
        tile: Tile,
        allow_url: bool,
    ) -> Scene:
        """An image that the towers have not looked at; ``needs`` names a question about regions."""
        if needs is not None:
            self._check_offered(boxes, needs)
        picture, frame = read_framed(image, allow_url=allow_url)
        if boxes is not None:
            offer = given_regions(boxes, frame, image=_name(image))
            side = self._side(tile, offer.regions)
            return self._opened(picture, offer.regions, notes=offer.notes, tile=side)
        return self._opened(picture, **self._propose(picture, queries, tile))

    def _check_offered(self, boxes: Any, needs: str) -> None:
        if boxes is None and self._proposer is None:
            raise PromptError(
                f"{needs} points at regions, and none were given: pass boxes=..., one "
                "(x1, y1, x2, y2) per candidate, or load the model with proposer=..."
            )

    def _opened(self, picture: Image.Image, regions: Regions, **options: Any) -> Scene:
        return Scene(self._network(), picture, regions, **options)

    def _network(self) -> Network:
        return Network(self.model, self.processor, self.tag_ids)

    def _propose(
        self, picture: Image.Image, queries: str | Sequence[str] | None, tile: Tile
    ) -> dict[str, Any]:
        """What the proposer offers, as arguments of `Scene`: regions, tile, notes and seconds.

        Raises:
            PromptError: It looks for named things and there are no queries.
        """
        proposer = self.proposer
        if proposer is None:
            return {"regions": Regions.empty(picture.size)}
        start = time.perf_counter()
        wanted = None
        if proposer.requires_labels:
            wanted = [queries] if isinstance(queries, str) else list(queries or ())
            if not wanted:
                raise PromptError(
                    f"the proposer {proposer.name} looks for named things: pass "
                    "queries=['orange', ...] (--query on the command line), or boxes=..."
                )
        whole = (0, 0, *picture.size)
        seen = {whole: proposer.propose([picture], queries=wanted)[0]}
        side = self._side(tile, select(seen[whole], self.selection))
        if side is not None:
            parts = [area for area in tiles(picture.size, side) if area != whole]
            seen |= _found_in(picture, parts, proposer, wanted)
        found = seen[whole] if len(seen) == 1 else joined(seen.items(), picture.size)
        selection = self.selection
        if selection.limit is not None:  # it is meant for one look
            selection = replace(selection, limit=selection.limit * len(seen))
        chosen = select(found, selection)
        regions = replace(chosen, xyxy=check(chosen.xyxy, picture.size))
        notes: list[str] = []
        if not len(regions):
            notes.append(
                f"no regions were offered: the proposer {proposer.name} found {len(found)} boxes, "
                f"and none passed min_score = {selection.min_score:g}"
                if len(found)
                else f"no regions were offered: the proposer {proposer.name} found nothing"
            )
        seconds = time.perf_counter() - start
        return {"regions": regions, "tile": side, "notes": notes, "propose_s": seconds}

    def _side(self, tile: Tile, regions: Regions) -> int | None:
        """The side of tiles in pixels, None for the whole picture."""
        if tile != "auto":
            return tile
        return fitting_tile(regions, self.processor.image_processor.seen_size)


def _found_in(
    picture: Image.Image, areas: Sequence[Area], proposer: Proposer, queries: list[str] | None
) -> dict[Area, Regions]:
    """What a proposer finds in each of these parts, in pixels of the part."""
    seen: list[Regions] = []
    for first in range(0, len(areas), PROPOSED_AT_ONCE):
        crops = [picture.crop(area) for area in areas[first : first + PROPOSED_AT_ONCE]]
        seen += proposer.propose(crops, queries=queries)
    return dict(zip(areas, seen, strict=True))


_LOADING = ("device", "revision", "cache_dir", "local_files_only", "token", "strict", "proposer")
"""What `FO1.from_pretrained` takes beside the options of the model."""

_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Devices that are none, but ways to use all of them."""


def _name(image: Any) -> str | Path | None:
    """The file name by which a boxes file may know the image."""
    if isinstance(image, Path):
        return image
    return image if isinstance(image, str) and not image.startswith("data:") else None


def _on_device(device: torch.device) -> dict[str, Any]:
    """Where a proposer goes: to the model."""
    return {"device": str(device)}


SAME_BOX_IOU = 0.9
"""A candidate that overlaps the reference box more than this is the reference itself."""


def _first(reference: Regions, offered: Regions) -> Regions:
    """The reference in front of what is offered, outranking every score; its double gives way."""
    offered = offered[iou(reference.xyxy, offered.xyxy)[0] <= SAME_BOX_IOU]
    scores = None
    if offered.scores is not None:
        best = np.fmax.reduce(offered.scores, initial=1.0)  # fmax: an unknown score is NaN
        scores = np.concatenate([np.array([best], np.float32), offered.scores])
    return Regions(np.concatenate([reference.xyxy, offered.xyxy]), offered.size_wh, scores)
