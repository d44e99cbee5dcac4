"""`python -m bench`."""

import sys
from pathlib import Path

# Python puts the working directory first on the path: there the reports/out that we write would hide our own package
# `reports` from an editable installation. Processes that this one spawns inherit the path as it is then.
if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from bench.cli import main

if __name__ == "__main__":
    main()
