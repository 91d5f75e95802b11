"""Phrases in videos: FO1 chooses on key frames, a tracker carries the masks between them."""
