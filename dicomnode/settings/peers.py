"""The keys of a peer: the networks from which it may send, the address to send to, and its certificates under TLS."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, PlainValidator, model_validator

from dicomnode.ids import AeTitle
from dicomnode.settings import urls
from dicomnode.settings.addresses import MaybeHostPort, split_address, unmapped
from dicomnode.settings.values import Hours, PemFile, SecretFile, Title, Word
from dicomnode.strict_toml import StrictModel, fail

ANY_TITLE = "*"  # any AE title; only for a peer of this machine itself


Network = IPv4Network | IPv6Network


_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[^\x00-\x1f\x7f*]{1,253}")  # a common name may hold blanks


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(digits):
        fail("expected the SHA-256 fingerprint of a certificate, 64 hexadecimal digits, with or without colons")
    return digits


def _certificate_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        fail("expected a DNS name or an IP address as the certificate has it, without a wildcard")
    return text


def _network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        fail('expected a network in text, such as "10.1.2.0/24"')
    try:
        return ip_network(value)
    except ValueError:
        fail('expected a network such as "10.1.2.0/24" (no bits set behind the prefix) or one address')


DicomwebUrl = Annotated[str, AfterValidator(urls.dicomweb)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
CertificateName = Annotated[str, AfterValidator(_certificate_name)]
NetworkText = Annotated[Network, PlainValidator(_network)]


class PeerSettings(StrictModel):
    """A DICOM application that may send to us (``networks``), be sent to (``address`` or ``url``), or both."""

    name: Word
    ae_title: Title = AeTitle("")  # empty: it is only reached by DICOMweb, which has no titles
    networks: tuple[NetworkText, ...] = ()
    address: MaybeHostPort = ""
    url: DicomwebUrl = ""
    token_file: SecretFile = ""
    ca: PemFile = ""  # authority of the certificate of the server at url; empty: those that this machine trusts
    enhanced: Literal["process", "store", "refuse"] = "process"  # its Enhanced (multi-frame) MR objects
    other_objects: Literal["refuse", "store"] = "refuse"
    tls: bool = False  # true: connections to it are under TLS
    fingerprints: tuple[Fingerprint, ...] = ()
    certificate_names: tuple[CertificateName, ...] = ()
    pull_blackout: Hours = ""  # part of each day in which nothing is pulled from it
    commitment: Word = "auto"  # committer for what this peer got: itself where it offers that, none, another peer

    @property
    def committer(self) -> str | None:
        """The name of the peer that is asked to prove that it has what this one got; None: no peer is asked."""
        if self.commitment == "off" or not self.is_sent_to:
            return None
        return self.name if self.commitment == "auto" else self.commitment

    @property
    def is_sent_to(self) -> bool:
        """True if the peer has an address or a url to send to."""
        return bool(self.address or self.url)

    @property
    def is_bound(self) -> bool:
        """True if it may connect, and be sent to, only with a certificate that is named here."""
        return bool(self.fingerprints or self.certificate_names)

    @property
    def host(self) -> str:
        """The address to send to; only of a peer that has one."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The port to send to; only of a peer that has an address."""
        return split_address(self.address)[1]

    def is_near(self, address: str) -> bool:
        """Tell whether a connection from this IP address comes from one of the peer's networks."""
        return any(unmapped(address) in network for network in self.networks)

    def may_send(self, calling_ae_title: str, address: str) -> bool:
        """Tell whether the calling AE title (case matters) and the IP address of an association are this peer's."""
        return self.ae_title in (ANY_TITLE, calling_ae_title.strip()) and self.is_near(address)

    @model_validator(mode="after")
    def _has_a_direction(self) -> Self:
        if not self.networks and not self.is_sent_to:
            fail("needs networks (may send from there) or an address or url (may be sent to), or both")
        if self.tls and not self.address:
            fail("tls is for sending: it needs an address")
        if not self.ae_title and (self.networks or self.address):
            fail("ae_title is missing; only a peer that has a url alone needs none")
        if self.ae_title == ANY_TITLE and (self.address or not all(net.is_loopback for net in self.networks)):
            fail('ae_title "*" is only for networks of this machine itself, such as "127.0.0.1/32", and no address')
        return self

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        if self.address and self.url:
            fail("is sent to by DICOM (address) or by DICOMweb (url), not by both: name two peers")
        if (self.token_file or self.ca) and not self.url:
            fail("token_file and ca are for DICOMweb: they need a url")
        if self.ca and not self.url.startswith("https:"):
            fail("ca is for TLS: it needs a url that begins with https://")
        if self.url and self.is_bound and not self.networks:
            fail("fingerprints and certificate_names are for DICOM: the certificate at url has to name its host")
        return self
