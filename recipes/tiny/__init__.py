"""The recipe of the bundled small model, from rendered images to weights."""
