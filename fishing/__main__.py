"""``python -m fishing`` is the same as ``fishing``."""

from fishing.cli.main import main

main()
