#!/bin/sh
# Install this checkout with the extra "cluster" into the folder $1, in the versions of constraints.txt; an image of
# Containerfile is this folder on top of Python. TORCH_INDEX is the package index of another build of PyTorch, and PYTHON
# another Python.
set -eu
place=$1
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m venv "$place"
pip() { "$place/bin/pip" --disable-pip-version-check --no-cache-dir --quiet "$@"; }

# torch first: an index for it alone must not answer for anything else.
pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
pip install --constraint constraints.txt '.[cluster]'

# The decoder of JPEG lossless is under the GPL, and so would be whatever is handed on with it.
pip uninstall --yes pylibjpeg-libjpeg
"$place/bin/python" - <<'END'
import sys
from importlib.metadata import distributions

found = []
for one in distributions():
    licences = [one.metadata.get("License-Expression") or "", *(one.metadata.get_all("Classifier") or [])]
    if any("GPL" in text and "LGPL" not in text for text in licences):
        found.append(one.metadata["Name"])
sys.exit(f"under the GPL: {found}" if found else 0)
END

# Nothing is installed where the image runs.
pip uninstall --yes pip setuptools
