"""``python -m fishing`` is the same as ``fishing``."""

from fishing.cli import main

main()
