"""Addresses as the settings write them, and the base of settings that listen at one."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

from pydantic import AfterValidator

from dicomnode.strict_toml import StrictModel, fail


def split_address(text: str) -> tuple[str, int]:
    """Split ``host:port``; an IPv6 address stands in brackets.

    >>> split_address("10.1.0.5:104"), split_address("[::1]:11112")
    (('10.1.0.5', 104), ('::1', 11112))
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    whole = bool(colon and bare) and not re.search(r"[\s/@]", bare) and (bare != host or ":" not in host)
    if not (whole and port.isascii() and port.isdigit() and int(port) <= 65535):
        fail('expected address:port, such as "10.1.0.5:104" (an IPv6 address in brackets)')
    return bare, int(port)


def unmapped(address: str) -> IPv4Address | IPv6Address:
    """Parse an IP address; ::ffff:10.1.2.3, as an IPv6 socket shows an IPv4 address, becomes that IPv4 address."""
    parsed = ip_address(address.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _address(text: str) -> str:
    split_address(text)
    return text


def _address_or_none(text: str) -> str:
    return text and _address(text)


HostPort = Annotated[str, AfterValidator(_address)]
MaybeHostPort = Annotated[str, AfterValidator(_address_or_none)]


class Listening(StrictModel):
    """Base of the settings of a part that listens on an address."""

    listen: MaybeHostPort

    @property
    def host(self) -> str:
        """The address of ``listen``; only where it is set."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of ``listen``; only where it is set."""
        return split_address(self.listen)[1]
