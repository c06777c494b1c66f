"""``python -m dicomnode``: the same as the command ``dicomnode``."""

from __future__ import annotations

from dicomnode.cli.main import main

if __name__ == "__main__":
    main()
