"""The recipe of the bundled small model, from rendered scenes to weights."""
