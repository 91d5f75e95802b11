"""From an image and a question to an answer: `FO1`.

`FO1` is a model with its processor and, perhaps, a proposer; it holds no state between calls, so
threads may share one. `Scene` (in `vlm_fo1.scene`) is one opened image for many questions.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from vlm_fo1.answer import Answer
from vlm_fo1.batches import Asking, answer_items, check_batch_size
from vlm_fo1.boxes import iou
from vlm_fo1.devices import check_device, dtype_of
from vlm_fo1.engine import LocalEngine, Matchers, PrefixStore, kept_bytes, steps_for
from vlm_fo1.errors import BoxError, ConfigError, FO1Error, PromptError
from vlm_fo1.formats.boxes import given_regions
from vlm_fo1.grammar import list_tokens
from vlm_fo1.images import Frame, read_framed, read_image
from vlm_fo1.model.load_options import load_options
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import read_config, resolve_folder
from vlm_fo1.plan import OnText, Plan, Scoring, check_writing
from vlm_fo1.processing import FO1Processor
from vlm_fo1.proposals import ON_IMAGES, Thresholds, Tile, offer_for, propose, tile_side
from vlm_fo1.proposers.base import (
    DEFAULT_SELECTION,
    Proposer,
    Selection,
    default_proposer,
    load_proposer,
    selection_of,
)
from vlm_fo1.regions import Offer, Regions
from vlm_fo1.scene import Scene, labels_of
from vlm_fo1.scores import CALIBRATION_FILE, Calibration
from vlm_fo1.tasks import BATCH_SIZE, MAX_NEW_TOKENS, Request, Task, as_list, questions_of, task_of

__all__ = ["DEFAULT_SELECTION", "FO1", "MAX_NEW_TOKENS", "Scene"]

Queries = str | Sequence[str] | None


class FO1:
    """VLM-FO1 for people: images and boxes in, answers that point at boxes out.

    Every asking method takes ``boxes``: an array of (x1, y1, x2, y2) in pixels of the image as
    displayed, `Regions`, or a JSON or COCO file (see `vlm_fo1.formats`). Without them the proposer
    is asked, if there is one; ``boxes=[]`` asks without any. Besides, each takes

    - ``max_new_tokens``: length limit of an answer in tokens; the model's context may leave less;
    - ``constrain``: keep the answer within what the task's markup allows (see `vlm_fo1.grammar`);
      False gives what the model writes by itself;
    - ``scores`` (questions with labels): how every label and region gets its number, see
      `vlm_fo1.scores`; None leaves them out;
    - ``on_text``: is called with the text as it is written;
    - ``queries``: what a proposer that looks for named things shall look for; the labels of the
      question unless said otherwise;
    - ``tile``: see `open`; "auto" means no tiles for questions that are not asked tile by tile;
    - ``allow_url``: whether http(s) URLs are fetched.

    What cannot be asked is refused before anything looks at the image.

    Args:
        model: The network, in evaluation mode.
        processor: Its processor.
        proposer: Offers regions where no boxes are given: a proposer, or a name for
            `load_proposer`, which is then loaded when it is first needed.
        selection: Which of its boxes are used; by default the proposer's own ``selection`` if it
            has one, else `DEFAULT_SELECTION`. Boxes that are given are used as they are.
        calibration: What makes the model's scores probabilities; by default they stay as they are.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        processor: FO1Processor,
        proposer: Proposer | str | None = None,
        *,
        selection: Selection | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.calibration = Calibration() if calibration is None else calibration
        tokens, stop = list_tokens(processor), processor.stop_token_id
        vocab_size = model.config.get_text_config().vocab_size
        self.engine = LocalEngine(
            model,
            processor.image_processor,
            tokens,
            stop,
            Matchers(processor.tokenizer, vocab_size, tokens, stop),
            prefixes=PrefixStore(kept_bytes(model.device)),
            steps=steps_for(model),
        )
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
        calibration: Calibration | str | Path | None = None,
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
            calibration: What makes the model's scores probabilities, or the file of it that ``fo1
                calibrate`` wrote; by default ``calibration.json`` in the model's folder where there
                is one. ``Calibration()`` leaves scores as they are.
            **options: For the model, as in transformers: ``attn_implementation``,
                ``quantization_config``, ``load_in_8bit``, ... (see `model.load_options`);
                ``torch_dtype`` and ``device_map`` mean ``dtype`` and ``device``.

        Raises:
            CheckpointError: There is no such checkpoint, or its weights do not fit.
            ConfigError: No such device, dtype, option or proposer here, or no calibration.
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
        if calibration is None and (beside := Path(folder) / CALIBRATION_FILE).is_file():
            calibration = beside
        if isinstance(calibration, str | Path):
            calibration = Calibration.read(calibration)
        model = FO1ForConditionalGeneration.from_pretrained(
            name, device_map=device, dtype=dtype, strict=strict, **hub, **options
        )
        if proposer is None:
            proposer = default_proposer(name)  # loaded when boxes are first left out
        elif isinstance(proposer, str):
            place = _on_device(model.device)
            proposer = load_proposer(proposer, token=token, strict=strict or None, **place)
        return cls(model, processor, proposer, selection=selection, calibration=calibration)

    def selecting(self, selection: Selection) -> "FO1":
        """The same model and proposer with another selection of proposals."""
        return self._changed(_selection=selection)

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
        images = self.processor.image_processor.with_image_size(image_size)
        processor = copy(self.processor)
        processor.image_processor = images
        engine = replace(self.engine, image_processor=images)
        return self._changed(processor=processor, engine=engine)

    def open(
        self,
        image: Any,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        image_size: int | None = None,
        allow_url: bool = False,
    ) -> Scene:
        """Open an image with its regions for many questions; it is encoded with the first.

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

        Raises:
            ImageError: The image cannot be read.
            BoxError: A box cannot be used.
            PromptError: The proposer looks for named things and there are no queries.
            ConfigError: ``tile`` or ``image_size`` is too small.
        """
        if image_size is not None:
            fo1 = self.seeing(image_size)
            return fo1.open(image, boxes, queries=queries, tile=tile, allow_url=allow_url)
        return self._opened(image, read_framed(image, allow_url=allow_url), boxes, queries, tile)

    def propose(
        self,
        image: Any,
        *,
        queries: Queries = None,
        tile: Tile = None,
        allow_url: bool = False,
    ) -> Offer:
        """What the proposer offers for an image, as questions without boxes would get it.

        Args:
            image: As in `open`.
            queries: As in `open`.
            tile: As in `open`.
            allow_url: As in `open`.

        Returns:
            Regions best first, with what is to be said of them; takes the place of boxes anywhere.

        Raises:
            ImageError: The image cannot be read.
            PromptError: There is no proposer, or it looks for named things and there are none.
        """
        if self._proposer is None:
            raise PromptError("there is no proposer: load the model with proposer=...")
        return self._propose(read_image(image, allow_url=allow_url), queries, tile)

    def answer(
        self,
        image: Any,
        request: Request,
        boxes: Any = None,
        *,
        images: Sequence[Any] = (),
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Ask; what the other methods do with a request of their own.

        Args:
            image: As in `open`.
            request: What is asked; its region numbers are positions in ``boxes``.
            boxes: See the class.
            images: See `Scene.answer`.
            queries: See the class.
            tile: See the class.
            allow_url: Whether http(s) URLs are fetched.
            max_new_tokens: See the class.
            constrain: See the class.
            scores: See the class.
            on_text: See the class.

        Raises:
            PromptError: The request cannot be asked, or needs regions and there are none.
            ImageError: An image cannot be read.
            BoxError: A box cannot be used.
        """
        check_writing(max_new_tokens, on_text, scores)
        queries = self._check(request, boxes, queries)
        more = [read_image(one, allow_url=allow_url) for one in images]
        scene = self.open(
            image, boxes, queries=queries, tile=_tile_of(request, tile), allow_url=allow_url
        )
        return scene.answer(
            request,
            images=more,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def answer_many(
        self,
        items: Iterable[Asking | Callable[[], Asking]],
        *,
        batch_size: int = BATCH_SIZE,
        images: Sequence[Any] = (),
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_step: Callable[[], None] | None = None,
    ) -> Generator[Answer | FO1Error]:
        """Ask about many images, several side by side; see `vlm_fo1.batches`.

        Threads prepare the next images while the model answers: they read files, ask the proposer
        and preprocess. Memory does not grow with the number of items. Closing the iterator ends
        the threads.

        Args:
            items: Image and request, and perhaps boxes, each as in `answer`; or a function that
                gives them, called in one of the threads, for images that are no files. At most
                four batches are drawn ahead. Arrays, PIL images and open files are read as they are
                drawn, so that they may change afterwards; paths, bytes and URLs in the threads.
            batch_size: How many are asked at once; the run goes on with less if memory runs out.
            images: Further images to compare each with, see `Scene.answer`.
            queries: See the class.
            tile: See the class.
            allow_url: Whether http(s) URLs are fetched.
            max_new_tokens: See the class.
            constrain: See the class.
            scores: See the class.
            on_step: Called after each token and at least every second while images are awaited;
                what it raises ends the run.

        Returns:
            An iterator of an answer an item, in order; a broken item gives its error, and the
            others go on. What ``items`` raises comes after the answers to the items before.

        Raises:
            PromptError: ``max_new_tokens``, ``scores`` or ``batch_size`` cannot be.
            ImageError: A further image cannot be read.
        """
        check_writing(max_new_tokens, None, scores)
        check_batch_size(batch_size)
        more = [read_image(one, allow_url=allow_url) for one in as_list(images, "images")]

        def planned(
            image: Any, request: Request, boxes: Any, read: tuple[Image.Image, Frame] | None
        ) -> tuple[Scene, Plan]:
            wanted = self._check(request, boxes, queries)
            read = read or read_framed(image, allow_url=allow_url)
            scene = self._opened(image, read, boxes, wanted, _tile_of(request, tile))
            plan = scene.plan(
                request,
                images=more,
                max_new_tokens=max_new_tokens,
                constrain=constrain,
                scores=scores,
            )
            return scene, plan

        return answer_items(
            items, planned, self.engine, batch_size=batch_size, images=more, on_step=on_step
        )

    def detect(
        self,
        image: Any,
        labels: str | Sequence[str],
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Find everything that one of the labels names."""
        request = Request(task=Task.DETECTION, labels=labels_of(labels))
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def count(
        self,
        image: Any,
        label: str,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        request = Request(task=Task.COUNTING, labels=labels_of(label))
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def refer(
        self,
        image: Any,
        phrase: str,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Find what a phrase describes, e.g. "the orange nearest the apple"."""
        request = Request(task=Task.REFERRING, labels=labels_of(phrase))
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def describe(
        self,
        image: Any,
        boxes: Any = None,
        *,
        detail: Literal["brief", "detailed"] = "brief",
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Say what stands in each box; one mention a box, the words as its label."""
        request = Request(task=task_of("describe", detail))
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def read_text(
        self,
        image: Any,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Read the writing in each box; one mention a box, the writing as its label."""
        request = Request(task=Task.REGION_OCR)
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def match(
        self,
        image: Any,
        box: Any,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = None,
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Find more of what stands in ``box`` among ``boxes``.

        The reference box is region 0 of the answer; a candidate that is all but the same box is
        left out, the others follow in their order.

        Raises:
            BoxError: ``box`` is not one usable box.
        """
        check_writing(max_new_tokens, on_text)
        request = Request(task=Task.VISUAL_PROMPT, regions=(0,))
        self._check(request, boxes, queries)
        upright, frame = read_framed(image, allow_url=allow_url)
        try:
            example = self._given(image, frame, box, None)
        except BoxError as error:
            raise BoxError(f"the reference box of match: {error}") from error
        if len(example) != 1:
            raise BoxError(f"match takes one reference box, got {len(example)}")
        if boxes is not None:
            offer = self._given(image, frame, boxes, None)
        else:
            offer = self._propose(upright, queries, tile)
        notes = tuple(dict.fromkeys([*example.notes, *offer.notes]))
        regions = _first(example.regions, offer.regions)
        scene = self._scene(upright, replace(offer, regions=regions, notes=notes))
        return scene.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def ground(
        self,
        image: Any,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Describe the image and point at everything mentioned."""
        request = Request(task=Task.GROUNDED_CAPTION)
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def identify(
        self,
        image: Any,
        boxes: Any = None,
        *,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Name every object of the image, with its regions."""
        request = Request(task=Task.IDENTIFY)
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def reason(
        self,
        image: Any,
        question: str,
        boxes: Any = None,
        *,
        about: Sequence[int] = (),
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Think aloud, then answer, with regions as evidence; ``about`` as in `ask`."""
        request = Request(task=Task.REASONING, text=question, regions=tuple(about))
        return self.answer(
            image,
            request,
            boxes,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def ask(
        self,
        image: Any,
        question: str,
        boxes: Any = None,
        *,
        about: Sequence[int] = (),
        images: Sequence[Any] = (),
        system: str | None = None,
        queries: Queries = None,
        tile: Tile = "auto",
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Ask anything.

        ``about=[3]`` puts region 3 where ``{}`` stands in the question; `Scene.answer` says what
        ``images`` and ``system`` are.
        """
        request = Request(task=Task.FREE, text=question, regions=tuple(about), system=system)
        return self.answer(
            image,
            request,
            boxes,
            images=images,
            queries=queries,
            tile=tile,
            allow_url=allow_url,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def segment(
        self,
        image: Any,
        phrase: str,
        *,
        proposer: Proposer | None = None,
        query: str | None = None,
        thresholds: Thresholds = ON_IMAGES,
        allow_url: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Find what a phrase means, as masks where the proposer has them.

        A detector with masks offers, the counting question decides.

        Args:
            image: As in `open`.
            phrase: Of any kind: "the player in red nearest the ball".
            proposer: Offers things; `SAM3Proposer` gives them masks. By default that of the model.
            query: What the proposer looks for, by default the phrase. A detector knows names better
                than sentences: "player".
            thresholds: Which of the things are offered that a detector finds for a name.
            allow_url: Whether http(s) URLs are fetched.
            max_new_tokens: Length limit of the answer.
            constrain: See the class.
            on_text: Gets the text as it is written.

        Returns:
            The answer to the counting question: ``answer.chosen`` has the masks, ``answer.count``
            the number, ``answer.regions`` everything that was offered.

        Raises:
            ImageError: The image cannot be read.
            PromptError: The phrase cannot be asked, or there is no proposer.
            BoxError: The proposer returned what is no number.
        """
        check_writing(max_new_tokens, on_text)
        request = Request(task=Task.COUNTING, labels=labels_of(phrase))
        offering = self.proposer if proposer is None else proposer
        if offering is None:
            raise PromptError("segment asks a proposer: pass proposer=..., e.g. SAM3Proposer")
        upright = read_image(image, allow_url=allow_url)
        offer = offer_for(offering, upright, query or phrase, thresholds)
        scene = self._scene(upright, offer)
        return scene.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def _changed(self, **values: Any) -> "FO1":
        """The same with other values; both share one budget, one set of grammars, one proposer."""
        fo1 = copy(self)
        vars(fo1).update(_proposer=self.proposer, **values)
        return fo1

    def _check(self, request: Request, boxes: Any, queries: Queries) -> Queries:
        """Refuse what cannot be asked before anything looks; what the proposer shall look for.

        Raises:
            PromptError: The request needs regions and nobody has any, or its words cannot be asked.
        """
        if request.spec.needs_regions and boxes is None and self._proposer is None:
            raise PromptError(
                f"{request.spec.command.replace('-', '_')} points at regions, and none were given: "
                "pass boxes=..., one (x1, y1, x2, y2) per candidate, or load the model with "
                "proposer=..."
            )
        if request.regions:
            return queries
        own = self.processor
        asked = questions_of(request, 0, own.vocabulary, own.reserved_tokens())
        return queries or (asked[0].labels if asked else None) or None

    def _given(self, image: Any, frame: Frame, boxes: Any, tile: Tile) -> Offer:
        """The user's boxes as regions."""
        offer = given_regions(boxes, frame, image=_name(image))
        side = tile_side(tile, offer.regions, self.processor.image_processor)
        return replace(offer, tile=side)

    def _propose(self, upright: Image.Image, queries: Queries, tile: Tile) -> Offer:
        """What the proposer offers; nothing where there is none."""
        proposer = self.proposer
        if proposer is None:
            return Offer(Regions.empty(upright.size))
        return propose(
            proposer,
            upright,
            selection=self.selection,
            queries=queries,
            tile=tile,
            seen_by=self.processor.image_processor,
        )

    def _opened(
        self,
        image: Any,
        read: tuple[Image.Image, Frame],
        boxes: Any,
        queries: Queries,
        tile: Tile,
    ) -> Scene:
        """An image that is read, with its regions."""
        upright, frame = read
        if boxes is None:
            return self._scene(upright, self._propose(upright, queries, tile))
        return self._scene(upright, self._given(image, frame, boxes, tile))

    def _scene(self, upright: Image.Image, offer: Offer) -> Scene:
        return Scene(self.engine, self.processor, upright, offer, self.calibration)


def _tile_of(request: Request, tile: Tile) -> Tile:
    """No tiles for questions that are not asked tile by tile, unless somebody says so."""
    return None if tile == "auto" and not request.spec.tiled else tile


_LOADING = (
    *("device", "revision", "cache_dir", "local_files_only", "token", "strict", "proposer"),
    "calibration",
)
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
