"""A node as somebody meets it for the first time: served with its page, with a settings file that names nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.dcmtk import free_port, is_listening
from tests.support.node import Node
from tests.support.page_node import token_file
from tests.support.wait import wait_until

START_LIMIT_S = 120.0


@contextmanager
def first_node(folder: Path) -> Iterator[tuple[Node, str]]:
    """The node, and the address of its page."""
    port, web_port = free_port(), free_port()
    node = Node(folder=folder, port=port, config=folder / "dicomnode.toml")
    node.config.write_text(
        f'[node]\nae_title = "NODE"\nlisten = "127.0.0.1:{port}"\ndata = "{node.data}"\n[settle]\nquiet_s = 2\n'
        f'[web]\nlisten = "127.0.0.1:{web_port}"\ntoken_file = "{token_file(folder)}"\n'
    )
    command = [sys.executable, "-m", "dicomnode", "serve", "--web", "--config", str(node.config)]
    with node.log_file.open("wb") as said:
        node.process = subprocess.Popen(command, stderr=said)
    try:
        wait_until(lambda: is_listening(port) and is_listening(web_port), START_LIMIT_S, "node and page listen")
        yield node, f"http://127.0.0.1:{web_port}"
    finally:
        node.process.terminate()
        node.process.wait(60)
