"""What offers regions: for now, boxes that are already there."""
