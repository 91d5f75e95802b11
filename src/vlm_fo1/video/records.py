"""What is known of each frame of a video, and the file it is kept in as it comes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.errors import BoxError
from vlm_fo1.jsonl import JsonlFile
from vlm_fo1.masks import decode_rle, encode_rle
from vlm_fo1.regions import Regions


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameRecord:
    """One frame of a video and the things that were followed in it."""

    index: int
    time_s: float
    regions: Regions | None
    """With masks and labels; None where the frame could not be read."""
    ids: tuple[int, ...] = ()
    """One number a region: the same thing has the same number in every frame."""
    key: bool = False
    """Whether FO1 chose here; else the masks were carried on."""
    text: str = ""
    """On key frames, FO1's answer without markup."""
    error: str = ""
    """What failed here; for an unreadable frame, why it is that."""
    problems: tuple[str, ...] = ()
    """What the answer of a key frame could not use."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; masks as COCO's run lengths."""
        head = {"frame": self.index, "time_s": self.time_s}
        if self.error:
            head["error"] = self.error
        if self.regions is None:
            return head
        width, height = self.regions.size_wh
        return {
            **head,
            "key": self.key,
            "image": {"width": width, "height": height},
            "text": self.text,
            "objects": [_object(self.regions, i, number) for i, number in enumerate(self.ids)],
            "problems": list(self.problems),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FrameRecord":
        """The record that `to_dict` wrote.

        Raises:
            BoxError: Fields are missing, or a mask does not fit the image.
        """
        try:
            head = {
                "index": int(values["frame"]),
                "time_s": float(values["time_s"]),
                "error": values.get("error", ""),
            }
            if "objects" not in values:
                return cls(**head, regions=None)
            size_wh = (values["image"]["width"], values["image"]["height"])
            things = values["objects"]
            known = [thing.get("score") for thing in things]
            regions = Regions(
                np.array([thing["xyxy"] for thing in things], np.float32).reshape(-1, 4),
                size_wh,
                np.array([np.nan if score is None else score for score in known], np.float32),
                labels=tuple(thing["label"] for thing in things),
                masks=np.array([decode_rle(thing["segmentation"]) for thing in things], bool)
                if things
                else None,
            )
            return cls(
                **head,
                regions=regions,
                ids=tuple(int(thing["id"]) for thing in things),
                key=bool(values["key"]),
                text=values["text"],
                problems=tuple(values["problems"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BoxError(f"no record of a frame: {error!r}") from error


class FrameFile:
    """Frames on disk, one line of JSON each as soon as it is there; locked by a ``with`` block.

    An existing file is gone on with: its last segment, if it was not finished, is taken out.

    Args:
        path: The file.
        decisive: What decides the records, in plain values; a short hash of it stands in each line.
        every: Frames from one key frame to the next.
        fresh: Start anew.

    Raises:
        ConfigError: The file holds something else than frames of the same request.
    """

    def __init__(
        self, path: Path, decisive: Sequence[Any], *, every: int, fresh: bool = False
    ) -> None:
        self._file = JsonlFile(path, decisive, thing="frame", is_one=_is_frame, fresh=fresh)
        self.start = 0
        """Index of the first frame that is not in it yet."""
        self.next_id = 0
        """A number that no thing in it has."""
        self.last: FrameRecord | None = None
        """The last frame in it that could be read."""
        self.kept = 0
        """Readable frames that were in it when it was opened."""
        self.complete = False
        """Whether the video was followed to its end."""
        if path.exists():
            self._go_on(every)

    def __enter__(self) -> "FrameFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: FrameRecord) -> None:
        """Write one frame and make sure it is on disk."""
        self._file.append(record.to_dict())

    def finish(self, frames: int) -> None:
        """Say that the video ended where it should."""
        self._file.append({"end": True, "frames": frames})
        self.complete = True

    def records(self) -> Iterator[FrameRecord]:
        """All frames in it, one at a time."""
        for line in self._file.lines():
            if "frame" in line.values:
                yield FrameRecord.from_dict(line.values)

    def _go_on(self, every: int) -> None:
        """Find where to go on, and cut off what comes after."""
        starts, indices = list[int](), list[int]()
        end, readable = 0, True
        for line in self._file.lines():
            self.complete = self.complete or bool(line.values.get("end"))
            if "frame" in line.values:
                indices.append(line.values["frame"])
                starts.append(line.start)
            end, readable = line.start + len(line.raw), "objects" in line.values
        if self.complete:
            self.start = max(indices, default=-1) + 1
            self.kept = sum(record.regions is not None for record in self.records())
            return
        if indices and not readable:  # the video ended early: perhaps there is more of it now
            end = starts.pop()
            indices.pop()
        whole = (indices[-1] + 1) // every * every if indices else 0
        kept = sum(index < whole for index in indices)
        self._file.cut(starts[kept] if kept < len(starts) else end)
        self.start = whole
        for record in self.records():
            self.kept += record.regions is not None
            self.next_id = max([self.next_id, *(number + 1 for number in record.ids)])
            self.last = record if record.regions is not None else self.last


def _is_frame(values: dict[str, Any]) -> bool:
    return isinstance(values.get("frame"), int) or values.get("end") is True


def _object(regions: Regions, index: int, number: int) -> dict[str, Any]:
    assert regions.masks is not None
    score = np.nan if regions.scores is None else float(regions.scores[index])
    return {
        "id": number,
        "label": "" if regions.labels is None else regions.labels[index],
        "xyxy": [round(value, 2) for value in regions.xyxy[index].tolist()],
        "score": None if np.isnan(score) else round(score, 6),
        "segmentation": encode_rle(regions.masks[index]),
    }
