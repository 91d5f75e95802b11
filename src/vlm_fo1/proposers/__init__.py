"""What offers regions: detectors, segmenters, readers of text, files, behind one contract."""
