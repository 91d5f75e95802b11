"""Other tools' files of boxes: read, and made to fit the image at hand."""
