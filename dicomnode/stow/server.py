"""A DICOMweb server of the settings: requests with its token, under TLS with its authorities and our certificate.

In: a peer with a ``url``. Out: the answer to a request, or a ``RequestOutcome`` that says why there is none. The files
are read for each request, so that a token or a certificate that was replaced counts for the next one. The token stands
in no log, no sentence and no exception.
"""

from __future__ import annotations

import re
import ssl
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

from dicomnode import __version__
from dicomnode.dimse.commitment import Reference, Report
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.errors import SettingsError
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.settings.models import PushSettings, TlsSettings
from dicomnode.settings.peers import PeerSettings
from dicomnode.stow.answer import read_matches
from dicomnode.stow.body import Body
from dicomnode.stow.commitment import JSON, CommitmentRequest, NoCommitment, Working, judge
from dicomnode.stow.exchange import MOST_BYTES, Exchange, Reply
from dicomnode.stow.parts import read_parts
from dicomnode.stow.status import closed_by, in_words
from dicomnode.tls.identity import for_web

PAGE = 200  # matches of one answer to a search; servers have limits of their own, and may give fewer
MOST_MATCHES = 1 << 16  # of a search, unless it is known to have fewer
MOST_INSTANCE_BYTES = 512 << 20

_INSTANCE = "SOPInstanceUID"
_NO_SUCH_INSTANCE, _NO_WHOLE_INSTANCE = 0x0112, 0x0110  # PS3.7 Annex C: what a DIMSE peer would have answered
_AS_KEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'

_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_OTHERS_MAY_READ = 0o007


@dataclass(frozen=True, slots=True)
class NoSearch:
    """The server does not offer the search."""

    why: str


class Server:
    """Requests to one server. One thread uses it; only ``abort`` may come from another."""

    def __init__(
        self, peer: PeerSettings, push: PushSettings, tls: TlsSettings, *, most_bytes: int = MOST_INSTANCE_BYTES
    ) -> None:
        """``most_bytes``: the limit on an instance that is fetched."""
        assert peer.url, "only a peer with a url is reached by DICOMweb"
        self._most_bytes = most_bytes
        self._peer, self._push, self._tls = peer, push, tls
        self._ready: Exchange | None = None  # connected, for the next request
        self._current: Exchange | None = None
        self._is_aborted = False
        self.date = ""  # the server's time, as its last answer has it

    def connect(self) -> RequestOutcome | None:
        """Connect for the next request; None: the connection stands. Raises SettingsError, as every request does."""
        self._token()
        exchange = Exchange(
            self._peer.url,
            self._context(),
            connect_timeout_s=self._push.connect_timeout_s,
            response_timeout_s=self._push.response_timeout_s,
        )
        self._current = exchange
        if self._is_aborted:
            return RequestOutcome(reason=RequestReason.ENDED)
        failed = exchange.connect()
        self._ready = exchange if failed is None else None
        return failed

    def store(self, body: Body) -> tuple[Reply | RequestOutcome, bool]:
        """Send instances (STOW-RS); return the answer, and whether all was sent. Raises StorageError of a file."""
        return self._ask("POST", "/studies", body)

    def search(self, study_uid: str, series_uid: str) -> frozenset[str] | NoSearch | RequestOutcome:
        """Ask for the SOP Instance UIDs of a series."""
        found = self.matches(f"/studies/{study_uid}/series/{series_uid}/instances", {_INSTANCE: ""})
        return frozenset(one[_INSTANCE] for one in found) if isinstance(found, list) else found

    def matches(
        self, path: str, values: Mapping[str, str], *, most: int = MOST_MATCHES
    ) -> list[dict[str, str]] | NoSearch | RequestOutcome:
        """Search (QIDO-RS, PS3.18 section 10.6), page by page; an empty value asks for the value of each match."""
        found: dict[tuple[str, ...], dict[str, str]] = {}
        wanted = [(keyword, value) for keyword, value in values.items() if value and f"/{value}/" not in path]
        asked = [("includefield", keyword) for keyword, value in values.items() if not value]
        while len(found) < most:
            page = self._page(path, [*wanted, *asked, ("limit", str(PAGE)), ("offset", str(len(found)))], values)
            if not isinstance(page, list):
                return page
            before = len(found)
            found |= {tuple(one.values()): one for one in page}
            if len(found) == before:  # the end; or the server does not know offsets, and gave everything before
                break
        return list(found.values())

    def retrieve(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bytes | RequestOutcome:
        """Fetch an instance as a file (WADO-RS, PS3.18 section 10.4), in the encoding in which the server keeps it."""
        path = f"/studies/{study_uid}/series/{series_uid}/instances/{sop_instance_uid}"
        reply, _ = self._ask("GET", path, accept=_AS_KEPT, most_bytes=self._most_bytes)
        if isinstance(reply, RequestOutcome):
            return reply
        if reply.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return RequestOutcome(reason=RequestReason.ANSWERED, status=_NO_SUCH_INSTANCE)
        if (closed := closed_by(reply.status)) is not None:
            return closed
        parts = read_parts(reply.content_type, reply.body) if reply.status == HTTPStatus.OK else None
        return parts[0] if parts else RequestOutcome(reason=RequestReason.ANSWERED, status=_NO_WHOLE_INSTANCE)

    def commit(
        self, transaction_uid: str, references: Sequence[Reference]
    ) -> Report | Working | NoCommitment | RequestOutcome:
        """Ask the server to commit to these instances (PS3.18 section 13.4). To repeat it (same UID) is harmless."""
        return self._commitment("POST", transaction_uid, CommitmentRequest(references))

    def result(self, transaction_uid: str) -> Report | Working | NoCommitment | RequestOutcome:
        """Look for the result of an earlier request (PS3.18 section 13.5)."""
        return self._commitment("GET", transaction_uid, None)

    def echo(self) -> RequestOutcome:
        """Is there a DICOMweb service that lets us in?

        It is asked for an instance that nobody has, so that the answer names no patient.
        """
        answer = self.matches("/instances", {_INSTANCE: f"2.25.{uuid.uuid4().int}"})
        if isinstance(answer, RequestOutcome):
            return answer
        if isinstance(answer, NoSearch):
            return RequestOutcome(reason=RequestReason.NO_SERVICE, detail=answer.why)
        return RequestOutcome(reason=RequestReason.ANSWERED, status=0)

    def close(self) -> None:
        """Close a connection that was not needed."""
        if self._ready is not None:
            self._ready.close()

    def abort(self) -> None:
        """End the request that is under way, and refuse every later one; from any thread."""
        self._is_aborted = True
        if (exchange := self._current) is not None:
            exchange.abort()

    def _commitment(
        self, method: str, transaction_uid: str, body: CommitmentRequest | None
    ) -> Report | Working | NoCommitment | RequestOutcome:
        reply, _ = self._ask(method, f"/commitment-requests/{transaction_uid}", body)
        return reply if isinstance(reply, RequestOutcome) else judge(reply, transaction_uid, SYSTEM_CLOCK.now())

    def _page(
        self, path: str, query: Sequence[tuple[str, str]], keywords: Collection[str]
    ) -> list[dict[str, str]] | NoSearch | RequestOutcome:
        reply, _ = self._ask("GET", f"{path}?{urlencode(query)}")
        if isinstance(reply, RequestOutcome):
            return reply
        if reply.status == HTTPStatus.NO_CONTENT:
            return []
        if (closed := closed_by(reply.status)) is not None:
            return NoSearch(closed.detail) if closed.reason is RequestReason.NO_SERVICE else closed
        found = read_matches(reply.body, keywords) if reply.status == HTTPStatus.OK else None
        return found if found is not None else NoSearch(f"{in_words(reply.status)}, which is no list of matches")

    def _ask(
        self,
        method: str,
        path: str,
        body: Body | CommitmentRequest | None = None,
        *,
        accept: str = JSON,
        most_bytes: int = MOST_BYTES,
    ) -> tuple[Reply | RequestOutcome, bool]:
        """Send a request; if the server refuses the token, and its file holds another one by now, send it once more."""
        token = self._token()
        reply, is_sent = self._ask_with(token, method, path, body, accept, most_bytes)
        if isinstance(reply, Reply) and reply.status == HTTPStatus.UNAUTHORIZED and (new := self._token()) != token:
            return self._ask_with(new, method, path, body, accept, most_bytes)
        return reply, is_sent

    def _ask_with(
        self, token: str, method: str, path: str, body: Body | CommitmentRequest | None, accept: str, most_bytes: int
    ) -> tuple[Reply | RequestOutcome, bool]:
        if self._ready is None and (failed := self.connect()) is not None:
            return failed, False
        exchange, self._ready = self._ready, None
        assert exchange is not None, "it was connected"
        # Every server has JSON. It alone: Orthanc's DICOMweb plugin 1.7 takes a list of types for one unknown type.
        headers = {"Accept": accept, "User-Agent": f"dicomnode/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is None:
            reply = exchange.ask(method, path, headers, most_bytes=most_bytes)
        else:
            reply = exchange.ask(method, path, {**headers, **body.headers}, body.blocks())
        self.date = reply.date if isinstance(reply, Reply) else ""
        return reply, body is None or exchange.is_sent

    def _context(self) -> ssl.SSLContext | None:
        return for_web(self._tls, self._peer.ca) if self._peer.url.startswith("https:") else None

    def _token(self) -> str:
        """Read the token from its file; empty: the settings name none. Raises SettingsError where it cannot be used."""
        if not self._peer.token_file:
            return ""
        file = Path(self._peer.token_file)
        try:
            mode, text = file.stat().st_mode, file.read_text("ascii")
        except (OSError, ValueError) as exc:
            raise _unusable(file, "it cannot be read as text") from exc
        if mode & _OTHERS_MAY_READ:
            raise _unusable(file, "every user of this machine may read it")
        token = text.partition("\n")[0].strip()
        if not _TOKEN.fullmatch(token):
            raise _unusable(file, "its first line is no token")
        return token


def _unusable(file: Path, why: str) -> SettingsError:
    return SettingsError(
        f"The token file {file} (peer.token_file) cannot be used: {why}.",
        hint="Its first line is the token, and nobody but the node's user may read it (chmod 0400).",
    )
