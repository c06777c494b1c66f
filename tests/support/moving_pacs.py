"""A PACS that answers C-FIND and C-MOVE by script and lies about what it moved; pynetdicom speaks for it.

The library counts the sub-operations of a C-MOVE and reports them. So that it reports what is not so, the double has
the library move everything to a place of its own, and brings to the node, on an association of its own, only what the
script says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from dicomnode.ids import AeTitle
from dicomnode.settings.peers import PeerSettings
from dicomnode.wire import MR_IMAGE, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, UNCOMPRESSED

Handler = tuple[evt.NotificationEvent | evt.InterventionEvent, Callable[..., Any]]


class MovingPacs:
    """Listens from the beginning; close it. Without a script it brings everything, and says so."""

    def __init__(self, files: Sequence[Path], *, ae_title: str, node: tuple[str, int], node_title: str) -> None:
        """``node``: where what is moved is brought to, under ``node_title``."""
        self._files = [dcmread(file) for file in files]
        self._title, self._node, self._node_title = ae_title, node, node_title
        self.withheld: set[str] = set()  # of a move of the series
        self.never: set[str] = set()
        self.status = 0x0000  # with which it ends a move
        self.cut_after: int | None = None  # instances of a series; then it aborts both associations
        self.cuts_each = False  # also a move of one instance, before anything is brought
        self.finds_nothing_after: int | None = None  # answers; then it aborts
        self.moves: Counter[str] = Counter()  # by level
        self.finds = 0
        self._sink = self._server({MR_IMAGE: list(UNCOMPRESSED)}, [(evt.EVT_C_STORE, lambda _event: 0x0000)])
        services = {STUDY_ROOT_FIND: list(UNCOMPRESSED), STUDY_ROOT_MOVE: list(UNCOMPRESSED)}
        self._own = self._server(services, [(evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move)])
        port = _port(self._own)
        self.peer = PeerSettings(name="pacs", ae_title=AeTitle(ae_title), address=f"127.0.0.1:{port}")

    def close(self) -> None:
        """End both servers."""
        self._own.shutdown()
        self._sink.shutdown()

    def _server(self, contexts: dict[str, list[str]], handlers: Sequence[Handler]) -> ThreadedAssociationServer:
        entity = AE(self._title)
        for sop_class, syntaxes in contexts.items():
            entity.add_supported_context(sop_class, syntaxes)
        entity.add_requested_context(MR_IMAGE, list(UNCOMPRESSED))
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
        assert server is not None
        return server

    def _find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        self.finds += 1
        asked = event.identifier
        found: dict[tuple[str, ...], Dataset] = {}
        for one in self._files:
            answer = Dataset()
            answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
            for element in asked:
                if element.keyword != "QueryRetrieveLevel" and element.keyword in one:
                    setattr(answer, element.keyword, one[element.keyword].value)
            found[tuple(str(element.value) for element in answer)] = answer
        for number, answer in enumerate(found.values()):
            if number == self.finds_nothing_after:
                event.assoc.abort()
                return
            yield 0xFF00, answer

    def _move(self, event: Event) -> Iterator[object]:
        asked = event.identifier
        self.moves[asked.QueryRetrieveLevel] += 1
        one = str(asked.get("SOPInstanceUID", ""))
        wanted = [file for file in self._files if one in ("", file.SOPInstanceUID)]
        brought = [file for file in wanted if file.SOPInstanceUID not in self.never]
        if not one:
            brought = [file for file in brought if file.SOPInstanceUID not in self.withheld][: self.cut_after]
        is_cut = self.cuts_each or (not one and self.cut_after is not None)
        self._bring([] if one and is_cut else brought, is_cut=is_cut)
        yield "127.0.0.1", _port(self._sink)
        yield len(wanted)
        if is_cut:
            event.assoc.abort()
            return
        for file in wanted:
            yield 0xFF00, file
        if self.status:
            yield self.status, None

    def _bring(self, files: Sequence[Dataset], *, is_cut: bool) -> None:
        entity = AE(self._title)
        entity.add_requested_context(MR_IMAGE, list(UNCOMPRESSED))
        association = entity.associate(*self._node, ae_title=self._node_title)
        assert association.is_established
        for file in files:
            assert association.send_c_store(file).Status == 0x0000
        (association.abort if is_cut else association.release)()


def _port(server: ThreadedAssociationServer) -> int:
    assert server.socket is not None
    port: int = server.socket.getsockname()[1]
    return port
