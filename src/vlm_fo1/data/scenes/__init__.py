"""Rendered pictures of things with names, with exact truth for every task."""

from vlm_fo1.data.scenes.config import SceneConfig
from vlm_fo1.data.scenes.source import ScenesSource
from vlm_fo1.data.scenes.sprites import SpriteSet

__all__ = ["SceneConfig", "ScenesSource", "SpriteSet"]
