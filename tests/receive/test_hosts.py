"""Who lives at an address: by an IP address at once, by a host name after a look-up that nobody waits for."""

from __future__ import annotations

from dicomnode.receive.hosts import Hosts
from tests.support.wait import wait_until


def test_an_ip_address_is_known_at_once_however_the_socket_shows_it() -> None:
    hosts = Hosts({"pacs": "10.1.2.9", "archive": "10.1.2.9", "other": "10.1.2.8"})
    assert hosts.at("10.1.2.9") == hosts.at("::ffff:10.1.2.9") == {"pacs", "archive"}
    assert hosts.at("10.1.2.7") == frozenset()


def test_a_host_name_is_known_after_its_look_up() -> None:
    hosts = Hosts({"pacs": "localhost", "gone": "no-such-host.invalid"})
    hosts.look_up()
    wait_until(lambda: hosts.at("127.0.0.1") == {"pacs"}, 30, "the name is looked up")
