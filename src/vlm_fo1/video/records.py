"""What is known of each frame of a video, and the file it is kept in as it comes."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.errors import BoxError, ConfigError
from vlm_fo1.masks import decode_rle, encode_rle
from vlm_fo1.structures import Regions


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
    """Frames on disk, each as soon as it is there, one line of JSON a frame.

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
        self.path = path
        self.identity = hashlib.sha256(json.dumps(list(decisive)).encode()).hexdigest()[:16]
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
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no file: name one to keep the frames in")
        if fresh:
            path.unlink(missing_ok=True)
        elif path.exists():
            self._go_on(every)

    def append(self, record: FrameRecord) -> None:
        """Write one frame and make sure it is on disk."""
        self._write(record.to_dict())

    def finish(self, frames: int) -> None:
        """Say that the video ended where it should."""
        self._write({"end": True, "frames": frames})
        self.complete = True

    def records(self) -> Iterator[FrameRecord]:
        """All frames in it, one at a time."""
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    values = self._parse(line)
                    if values is not None and "frame" in values:
                        yield FrameRecord.from_dict(values)

    def _write(self, values: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"run": self.identity, **values}, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _go_on(self, every: int) -> None:
        """Find where to go on, and cut off what comes after.

        Raises:
            ConfigError: A line is of something else.
        """
        offsets, indices = list[int](), list[int]()
        end, tail = 0, dict[str, Any]()
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                values = self._parse(line)
                if values is None and not line.endswith(b"\n") and _may_be_ours(line):
                    break  # cut off while it was written
                self._check(values, number)
                assert values is not None
                self.complete = self.complete or bool(values.get("end"))
                if "frame" in values:
                    indices.append(values["frame"])
                    offsets.append(end)
                end += len(line)
                tail = values
        if self.complete:
            self.start = max(indices, default=-1) + 1
            self.kept = sum(record.regions is not None for record in self.records())
            return
        if (
            indices and "objects" not in tail
        ):  # the video ended early: perhaps there is more of it now
            end = offsets.pop()
            indices.pop()
        whole = (indices[-1] + 1) // every * every if indices else 0
        kept = sum(index < whole for index in indices)
        end = offsets[kept] if kept < len(offsets) else end
        with self.path.open("r+b") as file:
            file.truncate(end)
        self.start = whole
        for record in self.records():
            self.kept += record.regions is not None
            self.next_id = max([self.next_id, *(number + 1 for number in record.ids)])
            self.last = record if record.regions is not None else self.last

    def _check(self, values: dict[str, Any] | None, number: int) -> None:
        if values is None:
            raise ConfigError(
                f"line {number} of {self.path} is no frame of this program: choose another file, "
                "or start it fresh and lose what it holds"
            )
        if values["run"] != self.identity:
            raise ConfigError(
                f"{self.path} holds the frames of another request: choose another file, or start "
                "it fresh and lose them"
            )

    @staticmethod
    def _parse(line: bytes) -> dict[str, Any] | None:
        try:
            values = json.loads(line)
        except ValueError:
            return None
        known = isinstance(values, dict) and isinstance(values.get("run"), str)
        known = known and (isinstance(values.get("frame"), int) or values.get("end") is True)
        return values if known else None


_START = b'{"run": "'
"""How each line begins."""


def _may_be_ours(line: bytes) -> bool:
    return _START.startswith(line[: len(_START)])


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
