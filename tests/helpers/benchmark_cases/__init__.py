"""One benchmark under contract each: see `tests.helpers.evaluation`."""
