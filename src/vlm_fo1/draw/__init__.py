"""Regions drawn on an image, each with a label that can be read."""

from vlm_fo1.draw.regions import draw_mentions, draw_regions

__all__ = ["draw_mentions", "draw_regions"]
