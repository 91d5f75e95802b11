"""``python -m vlm_fo1``: `fo1` where the program is not on the path."""

from vlm_fo1.cli.main import main

main()
