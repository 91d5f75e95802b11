"""``python -m recipes.tiny_proposer``: the bundled proposer, from the first image to weights."""

from recipes.tiny_proposer.training import main

if __name__ == "__main__":
    raise SystemExit(main())
