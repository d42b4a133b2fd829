"""``python -m trackside.control_plane`` is the command ``trackside``."""

from trackside.control_plane.cli import main

main()
