"""General ability by harnesses of others: image and text only, tags taken out of answers."""
