"""Imported by every Python process that has this folder on its path: the drivers and workers of a trial."""

import os

if "CRASH_POINTS" in os.environ:
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).parents[1]))
    import points

    points.install()
