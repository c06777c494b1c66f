"""Settings: the file, the variables over it, and mistakes in words that an operator can act on."""

from __future__ import annotations

import re
import tomllib
from datetime import time
from ipaddress import ip_network
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from dicomnode.errors import SettingsError
from dicomnode.settings import load
from dicomnode.settings.alert import split_letter
from dicomnode.settings.match import Condition, Match, ValueTest
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.settings.rules import RuleSettings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "etc" / "dicomnode.toml"

WHOLE = """
[node]
ae_title = " DICOMNODE "
listen = "0.0.0.0:11112"
data = "/var/lib/dicomnode"
[settle]
quiet_s = 30
[[peer]]
name = "mr1"
ae_title = "MR1"
networks = ["10.1.2.0/24", "10.9.9.9"]
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "10.1.0.5:104"
[[rule]]
name = "thick T2"
match = { SeriesDescription = "*T2*", slice_spacing_mm = ">= 2, < 8" }
model = "thin"
deliver_to = ["pacs"]
"""


_TLS_PEER = '[[peer]]\nname = "p"\nae_title = "P"\n'
_WEB = '[[peer]]\nname = "pacs"\nurl = "https://pacs.a.org/dicom-web"\n'
_TLS_TO = '[tls]\nca = "c"\n' + _TLS_PEER + 'address = "a:1"\ntls = true\n'
FINGERPRINT = ":".join(["AB"] * 32)  # as openssl prints it
TLS = f"""
[node]
listen = ""
[tls]
listen = "0.0.0.0:2762"
certificate = "/etc/dicomnode/node.pem"
key = "/etc/dicomnode/node.key"
ca = "/etc/dicomnode/ca.pem"
[[peer]]
name = "pacs"
ae_title = "PACS"
networks = ["10.1.0.0/24"]
address = "10.1.0.5:2762"
tls = true
fingerprints = ["{FINGERPRINT}"]
certificate_names = ["pacs.example.org"]
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "node.toml"
    file.write_text(text, encoding="utf-8")
    return file


def _complaints(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load.load(_write(folder, text), environ or {})
    assert caught.value.exit_code == 2
    return caught.value.sentence.splitlines()[1:]


def test_the_file_of_the_documentation_loads(tmp_path: Path) -> None:
    loaded = load.load(_write(tmp_path, WHOLE), {})
    assert (loaded.node.ae_title, loaded.node.host, loaded.node.port) == ("DICOMNODE", "0.0.0.0", 11112)  # noqa: S104
    assert loaded.node.data == Path("/var/lib/dicomnode")
    assert loaded.ledger_url == "sqlite:////var/lib/dicomnode/ledger.sqlite"
    assert loaded.peer[0].networks == (ip_network("10.1.2.0/24"), ip_network("10.9.9.9/32"))
    assert (loaded.peer[1].host, loaded.peer[1].port) == ("10.1.0.5", 104)
    rule = loaded.rule[0]
    spacing = ValueTest(text=">= 2, < 8", comparisons=((">=", 2.0), ("<", 8.0)))
    assert rule.match.conditions == (
        Condition(key="SeriesDescription", tests=(ValueTest(text="*T2*"),)),
        Condition(key="slice_spacing_mm", tests=(spacing,)),
    )
    assert (rule.model, rule.deliver_to) == ("thin", ("pacs",))


def test_a_node_may_listen_with_tls_alone(tmp_path: Path) -> None:
    loaded = load.load(_write(tmp_path, TLS), {})
    assert (loaded.node.listen, loaded.tls.host, loaded.tls.port) == ("", "0.0.0.0", 2762)  # noqa: S104
    assert loaded.peer[0].fingerprints == ("ab" * 32,), "whether with colons or without, in upper or lower case"
    assert loaded.peer[0].is_bound
    other = load.load(_write(tmp_path, TLS), {"DICOMNODE_TLS__LISTEN": "127.0.0.1:2762"})
    assert other.tls.host == "127.0.0.1"


def test_six_mistakes_are_reported_at_once_each_with_file_and_dotted_key(tmp_path: Path) -> None:
    """The six of the comparison in the decision record: a title too long, a port that is a word, and so on."""
    lines = _complaints(
        tmp_path,
        """
        [node]
        ae_title = "A_TITLE_THAT_IS_TOO_LONG"
        listen = "127.0.0.1:dicom"
        [settle]
        quiet_s = -1
        quite_s = 3
        [[peer]]
        name = "mr1"
        ae_title = "MR1"
        [[peer]]
        name = "pacs"
        ae_title = "PACS"
        network = ["10.0.0.0/8"]
        """,
    )
    file = tmp_path / "node.toml"
    starts = [
        f"  {file}: node.ae_title: expected 1 to 16 ASCII characters",
        f"  {file}: node.listen: expected address:port",
        f"  {file}: settle.quiet_s: expected greater than 0, found -1",
        f"  {file}: settle.quite_s: is not a known key (did you mean quiet_s?)",
        f"  {file}: peer.0: needs networks",
        f"  {file}: peer.1.network: is not a known key (did you mean networks?)",
    ]
    assert len(lines) == len(starts)
    for start in starts:
        assert any(line.startswith(start) for line in lines), (start, lines)


def test_a_match_that_does_not_parse_names_each_part(tmp_path: Path) -> None:
    match = (
        '{ SeriesDescriptoin = "*", slice_spacing_mm = "=> 2", Rows = 512, PixelData = "*", '
        'plane = ["axial", "AXIAL"], EchoTime = [], StationName = ">= 3", FlipAngle = "!" }'
    )
    lines = _complaints(tmp_path, f'[[rule]]\nname = "x"\nmatch = {match}')
    found = "\n".join(lines)
    assert "rule.0.match.SeriesDescriptoin: is not a keyword of the DICOM dictionary (did you mean SeriesD" in found
    assert 'rule.0.match.slice_spacing_mm: expected comparisons such as ">= 2"' in found
    assert "rule.0.match.Rows: expected a pattern in text" in found
    assert "rule.0.match.PixelData: holds no text" in found
    assert 'rule.0.match.plane: expected "axial", "coronal" or "sagittal", found' in found
    assert "rule.0.match.EchoTime: expected one test at least, found an empty list" in found
    assert "rule.0.match.StationName: holds text, which has no order" in found
    assert "rule.0.match.FlipAngle: expected a pattern in text" in found


def test_a_rule_may_deliver_only_to_a_peer_that_exists_and_has_an_address(tmp_path: Path) -> None:
    lines = _complaints(tmp_path, WHOLE.replace('["pacs"]', '["pax", "mr1"]') + "\n[settle2]\n")
    assert any('rule.0.deliver_to: there is no peer named "pax"' in line for line in lines)
    assert any('rule.0.deliver_to: peer "mr1" has neither address nor url to send to' in line for line in lines)
    assert any("settle2: is not a known key" in line for line in lines), "beside every other mistake"


def test_two_peers_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    lines = _complaints(tmp_path, WHOLE.replace('name = "pacs"', 'name = "mr1"').replace('["pacs"]', "[]"))
    assert [line.partition(": ")[2] for line in lines] == ['peer.1.name: a peer named "mr1" came before']


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[receive]\nhandshake_timeout_s = 5", "receive.handshake_timeout_s: is not a known key"),
        ('[settle]\nlate = "never"', "settle.late: expected"),
        ('[[rule]]\nname = "a"\nrelease = "review"', "rule.0: release is"),
        ('[[rule]]\nname = "a"\nforward_originals = ["b"]', 'rule.0.forward_originals: there is no peer named "b"'),
        ("[archive]\nkeep_months = 3", "archive.keep_months: is not a known key"),
        ('[page]\nlisten = "127.0.0.1:80"', "page: is not a known key"),
        (
            '[web]\nlisten = "10.1.0.9:80"',
            "web: listen is an address that other machines reach, which needs token_file",
        ),
        ('[web]\nlisten = "0.0.0.0:80"\ntoken_file = "/t"', "which needs hosts"),
        ('[web]\nviewer_url = "javascript:x{study_uid}"', "web.viewer_url: expected a URL that begins with http"),
        ('[web]\nviewer_url = "https://viewer.example/"', "has {study_uid} where the study's UID belongs"),
        ('[web]\nuser_header = "X Remote"', "web.user_header: expected the name of a header"),
        ('[web]\nhosts = ["a/b"]', "web.hosts.0: expected a name as browsers ask for it"),
        ('[settle]\nquiet_s = "30"', 'settle.quiet_s: expected a valid number, found "30"'),
        ("[settle]\nquiet_s = inf", "settle.quiet_s: expected"),
        ("[settle]\nmax_wait_s = 10", "settle: max_wait_s is below"),
        ("[push]\nbackoff_max_s = 1", "push: backoff_max_s is below"),
        ("[receive]\nmax_associations = 2", "receive: max_per_address is above"),
        ('[work]\ndevice = "gpu"', "work.device: expected auto, cpu, cuda or cuda:N"),
        ('[node]\nlisten = "::1:104"', "node.listen: expected address:port"),
        ('[node]\nae_title = "A\\\\B"', "node.ae_title: expected 1 to 16"),
        ('[[rule]]\nname = "x"\nmodel = "../weights"', "rule.0.model: expected a name of letters"),
        ('[[peer]]\nname = "p"\nae_title = "P"\nnetworks = ["10.0.0.1/8"]', "peer.0.networks.0: expected a network"),
        ('[[peer]]\nname = "p"\nae_title = "*"\nnetworks = ["10.0.0.0/8"]', 'peer.0: ae_title "*" is only for'),
        ("settle = 5", "settle: expected"),
        ('[tls]\nlisten = "0.0.0.0:2762"', "tls: listen needs certificate, key and ca"),
        ('[tls]\nca = "a"\nkey = "k"', "tls: certificate and key belong together"),
        ('[tls]\ncertificate = "a"\nkey = "k"', "tls: certificate needs ca"),
        ('[node]\nlisten = ""', "node.listen: is empty, and tls.listen too: nobody could connect"),
        (
            '[tls]\nca = "c"\n' + _TLS_PEER + 'networks = ["10.0.0.0/8"]\ntls = true',
            "peer.0: tls is for sending: it needs an address",
        ),
        (_TLS_PEER + 'address = "a:1"\ntls = true', "peer.0.tls: needs tls.ca, which says whose certificates"),
        (_TLS_PEER + 'address = "a:1"\ncertificate_names = ["a"]', "peer.0: has a certificate and an address"),
        (
            _TLS_PEER + 'networks = ["10.0.0.0/8"]\ncertificate_names = ["a"]',
            "peer.0: may only come in with a certificate, and tls.listen is not set",
        ),
        (_TLS_TO + 'fingerprints = ["AB:CD"]', "peer.0.fingerprints.0: expected the SHA-256"),
        (_TLS_TO + 'certificate_names = ["*.a.org"]', "peer.0.certificate_names.0: expected a DNS name"),
        ('[alert]\nsmtp = "mail:587"', "alert: smtp needs mail_from and mail_to"),
        ('[alert]\nmail_to = ["IT <it@a.org>"]', "alert.mail_to.0: expected a mail address without a name"),
        ('[alert]\nuser = "node"', "alert: user and password_file belong together"),
        ('[alert]\nwebhook = "http://a.org/x"', "alert.webhook: expected a URL that begins with https://"),
        ('[alert]\nwebhook = "https://me:geheim@a.org/x"', "alert.webhook: expected a URL that begins with https://"),
        ('[node]\nae_title = "A"\npull_ae_title = "A"', "node: pull_ae_title has to differ from ae_title"),
        ('[node]\nae_titles = ["B"]\npull_ae_title = "B"', "node: pull_ae_title has to differ from ae_title"),
        (_WEB + 'pull_blackout = "7-19"', "peer.0.pull_blackout: expected two times of day"),
        ('[work]\noffpeak_hours = "22:00"', "work.offpeak_hours: expected two times of day"),
        (_WEB.replace("https", "ftp"), "peer.0.url: expected a URL such as"),
        (_WEB.replace("https", "http"), "peer.0.url: expected a URL that begins with https://; http:// is for"),
        (_WEB.replace("pacs.a.org", "me:geheim@a.org"), "peer.0.url: expected a URL such as"),
        (_WEB + 'address = "10.1.0.5:104"\nae_title = "P"', "peer.0: is sent to by DICOM (address) or by DICOMweb"),
        (_WEB + 'networks = ["10.1.0.5"]', "peer.0: ae_title is missing"),
        (_WEB + 'fingerprints = ["' + "ab" * 32 + '"]', "peer.0: fingerprints and certificate_names are for DICOM"),
        ('[[peer]]\nname = "a"\nae_title = "A"\nnetworks = ["10.0.0.0/8"]\nca = "c"', "peer.0: token_file and ca are"),
        (_WEB.replace("https://pacs.a.org", "http://127.0.0.1") + 'ca = "c"', "peer.0: ca is for TLS"),
        ('[alert]\nletter = "monday 7:00"', "alert.letter: expected day and time"),
        ('[alert]\nletter = "mon 07:00 Europe/Nowhere"', "alert.letter: there is no such time zone"),
        ("[work]\nslots = 2", 'work: slots above 1 need executor = "dask"'),
        ('[work]\nexecutor = "dask"', 'work: executor is "dask", which needs the address of a cluster'),
        ('[work]\ncluster = "10.1.0.9:8786"', "work.cluster: expected tls://address:port"),
        ('[work]\ncluster = "tcp://10.1.0.9:8786"', "work.cluster: expected tls://address:port"),
        (
            '[work]\nexecutor = "dask"\ncluster = "tls://10.1.0.9:8786"\n[cluster]\nca = "ca.pem"',
            'work.executor is "dask", which needs cluster.cert and cluster.key',
        ),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    lines = _complaints(tmp_path, text)
    assert len(lines) == 1
    assert sentence in lines[0]


def test_a_postgresql_ledger_is_refused_without_repeating_its_password(tmp_path: Path) -> None:
    (line,) = _complaints(tmp_path, '[ledger]\nurl = "postgresql://node:geheim@db/node"')
    assert "PostgreSQL ledger is not supported yet" in line
    assert "geheim" not in line


def test_a_password_in_the_url_of_a_peer_is_not_repeated(tmp_path: Path) -> None:
    (line,) = _complaints(tmp_path, _WEB.replace("pacs.a.org", "me:geheim@a.org"))
    assert "geheim" not in line


def test_a_peer_by_dicomweb_is_delivered_to_and_looked_up_but_not_asked_to_report() -> None:
    rule = {"name": "all", "deliver_to": ["pacs"]}
    settings = load.parse({"peer": [{"name": "pacs", "url": "https://pacs.a.org/dicom-web/"}], "rule": [rule]})
    (peer,) = settings.peer
    assert (peer.url, peer.committer) == ("https://pacs.a.org/dicom-web", "pacs")
    assert (settings.reachable_peers, settings.committers) == (("pacs",), frozenset())


def test_a_password_in_the_url_of_a_webhook_is_not_repeated(tmp_path: Path) -> None:
    (line,) = _complaints(tmp_path, '[alert]\nwebhook = "https://me:geheim@a.org"')
    assert "geheim" not in line


def test_a_letter_has_its_day_its_time_and_its_zone() -> None:
    assert split_letter("sun 23:59") == (6, time(23, 59), None)
    assert split_letter("mon 07:00 Europe/Berlin") == (0, time(7), ZoneInfo("Europe/Berlin"))


def test_a_variable_wins_over_the_file_and_is_named_when_it_is_wrong(tmp_path: Path) -> None:
    file = _write(tmp_path, WHOLE)
    environ = {"DICOMNODE_NODE__LISTEN": "127.0.0.1:104", "DICOMNODE_SETTLE__QUIET_S": "2.5", "HOME": "/root"}
    loaded = load.load(file, environ)
    assert (loaded.node.listen, loaded.settle.quiet_s) == ("127.0.0.1:104", 2.5)
    with pytest.raises(SettingsError) as caught:
        load.load(file, {"DICOMNODE_SETTLE__QUIET_S": "soon"})
    assert 'DICOMNODE_SETTLE__QUIET_S: expected a valid number, found "soon"' in caught.value.sentence
    assert str(file) not in caught.value.sentence


def test_a_title_of_digits_in_a_variable_stays_text() -> None:
    loaded = load.load(None, {"DICOMNODE_NODE__AE_TITLE": "1234", "DICOMNODE_NODE__DATA": "7"})
    assert (loaded.node.ae_title, loaded.node.data) == ("1234", Path("7"))


@pytest.mark.parametrize("variable", ["DICOMNODE_NOSUCH", "DICOMNODE_NODE__PORT", "DICOMNODE_NODE_LISTEN"])
def test_an_unknown_variable_is_an_error(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}: is not a known variable"):
        load.load(None, {variable: "1"})


def test_peers_come_from_the_file_only() -> None:
    with pytest.raises(SettingsError, match="DICOMNODE_PEER__0__NAME: peers and rules come from the file only"):
        load.load(None, {"DICOMNODE_PEER__0__NAME": "x"})


def test_without_a_file_only_this_machine_may_send_and_nothing_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SYSTEM_FILE", Path("/nonexistent/dicomnode.toml"))
    embedded = load.load(None, {})
    assert embedded.node.host == "127.0.0.1"
    (peer,) = embedded.peer
    assert peer.may_send("ANY", "127.0.0.1")
    assert not peer.may_send("ANY", "10.0.0.1")
    assert not peer.address
    (rule,) = embedded.rule
    assert (rule.match, rule.model, rule.deliver_to) == (Match(), None, ())


def test_a_peer_is_known_by_title_and_network() -> None:
    peer = load.parse({"peer": [{"name": "mr1", "ae_title": "MR1", "networks": ["10.1.2.0/24"]}]}).peer[0]
    assert peer.may_send("MR1 ", "10.1.2.3")
    assert peer.may_send("MR1", "::ffff:10.1.2.3"), "as a socket for both families shows it"
    assert not peer.may_send("mr1", "10.1.2.3"), "titles are compared with case (PS3.5 has no rule, scanners differ)"
    assert not peer.may_send("MR1", "10.1.3.3")


def test_the_file_is_that_of_the_option_else_of_the_variable_else_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, named, given = (tmp_path / name for name in ("system.toml", "named.toml", "given.toml"))
    system.touch()
    monkeypatch.setattr(load, "SYSTEM_FILE", system)
    assert load.find(given, {"DICOMNODE_CONFIG": str(named)}) == given
    assert load.find(None, {"DICOMNODE_CONFIG": str(named)}) == named
    assert load.find(None, {}) == system
    system.unlink()
    assert load.find(None, {}) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"[node\n", "is not TOML"), (b"\xff\xfe", "is not UTF-8"), (None, "cannot be read: No such file")],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=sentence) as caught:
        load.load(file, {})
    assert str(file) in caught.value.sentence


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert load.load(file, {}).peer[1].name == "pacs"


def _uncommented(example: Path = EXAMPLE) -> str:
    """The example with every key that it shows switched on."""
    key = re.compile(r"^# ((?:\[\[\w+\]\])|(?:\w+ = .*))$")
    return "\n".join(
        found[1] if (found := key.match(line)) else line for line in example.read_text("utf-8").splitlines()
    )


def test_the_example_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads(_uncommented())
    assert load.parse(shown).rule[0].name == "thick T2", "what it shows is valid"
    assert set(shown) == set(Settings.model_fields) - {"worker", "scheduler"}
    assert set(shown["peer"][0]) == set(PeerSettings.model_fields)
    assert set(shown["rule"][0]) == set(RuleSettings.model_fields)
    for name in set(shown) - {"peer", "rule"}:
        assert load.parse({name: shown[name]}) == load.parse({}), f"[{name}] shows other values"
        assert set(shown[name]) == set(getattr(load.parse({}), name).model_dump())


@pytest.mark.parametrize(
    ("name", "tables"),
    [("worker", {"worker", "work", "cluster", "log"}), ("scheduler", {"scheduler", "cluster", "log"})],
)
def test_the_examples_of_a_cluster_show_every_key_that_is_read_there_with_its_default(
    name: str, tables: set[str]
) -> None:
    example = EXAMPLE.with_name(f"{name}.toml")
    shown = tomllib.loads(_uncommented(example))
    assert set(shown) == tables
    assert load.parse(shown) == load.parse({}) == load.load(example, {})
    for table in tables - {"work"}:
        assert set(shown[table]) == set(getattr(load.parse({}), table).model_dump())
    assert set(shown.get("work", {})) <= {"cluster", "device", "time_limit_s", "memory_limit_mb"}


def test_the_example_as_it_is_shipped_is_the_embedded_defaults() -> None:
    assert load.load(EXAMPLE, {}) == load.parse({})
