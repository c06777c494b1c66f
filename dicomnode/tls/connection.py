"""A connection under TLS, and words for the reasons why one failed.

``TlsSocket`` never waits: the handshake, a read and a write each do what can be done now, and raise
``ssl.SSLWantReadError`` or ``ssl.SSLWantWriteError`` where they have to be repeated.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from ssl import SSLContext

from dicomnode.tls.certificate import Certificate, read

ALERT_S = 2.0  # wait for an alert after the handshake
NO_TLS = "what the peer sent is not TLS"
_NO_TRUST = "the peer's certificate comes from no authority in {trusted}"

# OpenSSL's X509_V_ERR codes
_VERIFICATIONS = {
    9: "the peer's certificate is not valid yet (the clocks may differ)",
    10: "the peer's certificate has expired",
    18: _NO_TRUST,
    19: _NO_TRUST,
    20: _NO_TRUST,
    21: _NO_TRUST,
    26: "the peer's certificate is not made for this use (extended key usage)",
    62: "the peer's certificate does not name the host of its {place}",
    64: "the peer's certificate does not name the IP address of its {place}",
}
# OpenSSL's names of errors; an ALERT comes from the peer
_REASONS = {
    "HTTP_REQUEST": NO_TLS,
    "WRONG_VERSION_NUMBER": NO_TLS,
    "UNSUPPORTED_PROTOCOL": "the peer offers neither TLS 1.2 nor TLS 1.3",
    "VERSION_TOO_LOW": "the peer offers neither TLS 1.2 nor TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer takes neither TLS 1.2 nor TLS 1.3",
    "NO_SHARED_CIPHER": "the peer offers no cipher suite that is allowed here",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer refused the handshake: no cipher suite in common, or it wants a "
    "certificate of ours",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer presented no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of ours, and `tls.certificate` names none",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer finds that our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the peer finds that our certificate was revoked",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer does not accept certificates of this kind",
    "TLSV1_ALERT_ACCESS_DENIED": "the peer does not let our certificate in",
    "TLSV1_ALERT_DECRYPT_ERROR": "the peer could not verify our certificate",
}


class TlsSocket:
    """A connected socket under TLS. It does not block.

    OpenSSL allows one call at a time for a connection; ``Link.abort`` writes from another thread than the one that
    reads. So each call takes a lock.
    """

    def __init__(self, connected: socket.socket, context: SSLContext, *, is_server: bool, host: str | None) -> None:
        """Take the socket over. ``host``: name of the peer that we called, for its certificate. Raises OSError."""
        self._socket = context.wrap_socket(
            connected, server_side=is_server, server_hostname=host, do_handshake_on_connect=False
        )
        self._socket.setblocking(False)
        self._in_use = threading.Lock()
        self._is_ended = False  # we ended the connection
        self._failure: OSError | None = None  # error of a read after one that had returned bytes

    def do_handshake(self) -> int:
        """Go on with the handshake; return when it is over."""
        with self._in_use:
            self._socket.do_handshake()
        return 0

    def certificate(self) -> Certificate | None:
        """Return the certificate that the peer presented; None if it cannot be read. Only after the handshake."""
        with self._in_use:
            encoded = self._socket.getpeercert(binary_form=True)
        try:
            return read(encoded) if encoded else None
        except ValueError:  # only OpenSSL can read it; without facts it fits no peer
            return None

    def recv_into(self, buffer: memoryview | bytearray) -> int:
        """Read what is there; 0 at the end, whether the peer announced it (close_notify) or not.

        An object is whole by the lengths of its PDUs, so an end without an announcement cannot shorten one.

        OpenSSL gives a record at a time, 16 KiB at most. This reads all records that are there, as from a plain socket:
        our own code would cost more for each than its decryption.
        """
        with self._in_use:
            if self._is_ended:  # the content is not used any more, and TLS may have failed: read the raw bytes
                return socket.socket.recv_into(self._socket, buffer)
            if (failure := self._failure) is not None:
                self._failure = None
                raise failure
            wanted = len(buffer)
            size = self._socket.recv_into(buffer, wanted)
            rest = memoryview(buffer)[size:]
            while rest and size:
                try:
                    more = self._socket.recv_into(rest, len(rest))
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    break
                except OSError as exc:
                    self._failure = exc  # the bytes before it are returned first
                    break
                if not more:
                    break
                rest = rest[more:]
            return wanted - len(rest)

    def send(self, content: memoryview) -> int:
        """Write what can be written now."""
        with self._in_use:
            return self._socket.send(content)

    def say_end(self) -> None:
        """Announce our end of the stream (close_notify), as far as that is possible now."""
        with self._in_use, contextlib.suppress(OSError, ValueError):
            self._is_ended = True
            self._socket.unwrap()

    def shutdown(self, how: int) -> None:
        """Shut the connection down; from any thread. Raises OSError."""
        # Not SSLSocket's method: it would take the encryption away below a thread that reads.
        socket.socket.shutdown(self._socket, how)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for ``poll``."""
        return self._socket.fileno()


def objection(address: tuple[str, int], context: SSLContext, host: str) -> str:
    """Ask a peer, after a lost request, why it refused our certificate; return it in words, or an empty text.

    Under TLS 1.3 the peer sends the alert after the handshake. A request that is sent before resets the connection, and
    the alert is lost with it; so this connects once more and sends nothing.
    """
    try:
        with (
            socket.create_connection(address, timeout=ALERT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.recv(1)
    except ssl.SSLError as exc:
        return why(exc)
    except (OSError, ValueError):
        return ""
    return ""


def why(error: ssl.SSLError, *, trusted: str = "`tls.ca`", place: str = "`address`") -> str:
    """Say in words why a handshake or a connection failed; empty where the peer simply went away.

    ``trusted``: the key that names the authorities. ``place``: the key that names the host.
    """
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _VERIFICATIONS.get(error.verify_code)
        if known is None:
            return f"the peer's certificate was refused ({error.verify_message})"
        return known.format(trusted=trusted, place=place)
    reason = error.reason or ""
    if reason == "UNEXPECTED_EOF_WHILE_READING":
        return ""
    return _REASONS.get(reason, f"the TLS library says {reason.lower().replace('_', ' ') or 'nothing more'}")
