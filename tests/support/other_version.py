"""``python -m tests.support.other_version worker …``: a command as an older version of the package would run it."""

from __future__ import annotations

import dicomnode

dicomnode.__version__ = "0.0.9"

if __name__ == "__main__":
    from dicomnode.cli.main import main

    main()
