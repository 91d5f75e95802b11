"""Readers: the files that people have, as training records. One file a format."""

from vlm_fo1.data.sources.base import Source
from vlm_fo1.data.sources.coco import CocoSource
from vlm_fo1.data.sources.coco_text import CocoTextSource
from vlm_fo1.data.sources.conversations import ConversationsSource
from vlm_fo1.data.sources.instances import InstanceConfig
from vlm_fo1.data.sources.jsonl import JsonlSource
from vlm_fo1.data.sources.references import ReferencesSource
from vlm_fo1.data.sources.visual_genome import VisualGenomeSource

__all__ = [
    "CocoSource",
    "CocoTextSource",
    "ConversationsSource",
    "InstanceConfig",
    "JsonlSource",
    "ReferencesSource",
    "Source",
    "VisualGenomeSource",
]
