"""People hear of what is wrong once, of its end, and of a week in which nothing was: by mail and webhook, for good."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicomnode.alert import watch as watch_module
from dicomnode.alert.destination import TIMEOUT_S
from dicomnode.alert.message import trial
from dicomnode.alert.watch import Patience, Watch, destinations
from dicomnode.errors import LedgerError
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.values import Condition, QuarantinedFile, QuarantineReason, Release
from dicomnode.seams import SYSTEM_CLOCK, set_checkpoint_hook
from tests.alert.conftest import TO, Watched, settings_for
from tests.ledger.scene import LEASE_S, derived, figure, plan_for
from tests.support.certificates import Authority
from tests.support.dcmtk import free_port
from tests.support.mail_server import HookServer, MailServer, mail_server
from tests.support.mounts import tmpfs
from tests.support.wait import wait_until

PATIENCE = Patience()
SENTINEL = "SENTINEL^PATIENT"


def test_a_held_job_is_told_once_and_its_end_too(watched: Watched, mail: MailServer) -> None:
    series = watched.hold(reason="altered_model")
    watched.pass_by(1)
    assert mail.mails == [], "others may come with it"
    watched.pass_by(PATIENCE.gather_s)
    (told,) = mail.mails
    assert told["Subject"] == "[dicomnode DICOMNODE on here] 1 alert"
    assert mail.recipients == [list(TO)]
    assert mail.was_encrypted == [True]
    assert "1 job is held, reason altered_model; the newest is number 1." in mail.texts[0]
    watched.pass_by(3 * PATIENCE.again_s)
    assert len(mail.mails) == 1

    watched.scene.ledger.operator.cancel_series(series, "operator")
    watched.pass_by(PATIENCE.calm_s - 1)
    assert len(mail.mails) == 1, "it may come again at once"
    watched.pass_by(PATIENCE.calm_s)
    watched.pass_by(PATIENCE.gather_s)
    assert mail.mails[1]["Subject"] == "[dicomnode DICOMNODE on here] all clear"
    assert "All clear" in mail.texts[1]
    watched.pass_by(PATIENCE.again_s)
    assert len(mail.mails) == 2


def test_five_hundred_failures_make_one_mail_and_more_of_them_one_after_hours(
    watched: Watched, mail: MailServer
) -> None:
    watched.fail(1)
    watched.pass_by(1)
    watched.fail(299)
    watched.pass_by(30)
    watched.fail(200)
    watched.pass_by(30)
    assert len(mail.mails) == 1
    assert "500 jobs have failed after all attempts" in mail.texts[0]
    watched.fail(1)
    watched.pass_by(PATIENCE.again_s - 1)
    assert len(mail.mails) == 1
    watched.pass_by(2)
    watched.pass_by(PATIENCE.gather_s)
    assert len(mail.mails) == 2
    assert "501 jobs" in mail.texts[1]


def test_what_a_peer_refused_or_a_check_held_is_no_error(watched: Watched, mail: MailServer) -> None:
    watched.scene.queued("pacs", "other")
    watched.scene.finish_job()
    delivery = watched.scene.claim_delivery("pacs")
    watched.scene.ledger.deliveries.hold(delivery, reason="refused", sentence=SENTINEL)
    delivery = watched.scene.claim_delivery("other")
    watched.scene.ledger.deliveries.hold(delivery, reason="rejected", sentence=SENTINEL)
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    errors, _, refused = mail.texts[0].partition("Refused or held for a decision")
    assert "to peer other is held, reason rejected" in errors
    assert "to peer pacs is held, reason refused" in refused


def test_a_result_under_review_waits_for_a_person_and_is_no_error(watched: Watched, mail: MailServer) -> None:
    series = watched.scene.settled()
    watched.scene.ledger.settling.plan(series, 1, replace(plan_for("pacs"), release=Release.REVIEW))
    watched.scene.finish_job()
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    errors, _, waiting = mail.texts[0].partition("Refused or held for a decision")
    assert "review" not in errors
    assert "1 delivery to peer pacs waits for a person's review, the oldest since 2026-03-04" in waiting


def test_a_file_that_was_set_aside_is_told_until_somebody_has_seen_it(watched: Watched, mail: MailServer) -> None:
    aside = QuarantinedFile(
        file="x.dcm", reason=QuarantineReason.UID, sha256="0" * 64, peer="mr1", instance=None, kept_sha256=None
    )
    watched.scene.ledger.quarantine.record(aside)
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    assert "1 file from mr1 set aside, reason uid; the newest is number 1." in mail.texts[0]
    assert "Errors" not in mail.texts[0]
    watched.scene.ledger.operator.see_quarantine(None, "operator")
    watched.pass_by(PATIENCE.calm_s)
    watched.pass_by(PATIENCE.gather_s)
    assert mail.mails[1]["Subject"].endswith("all clear")


def test_a_peer_that_is_gone_for_an_hour_is_told(watched: Watched, mail: MailServer) -> None:
    watched.scene.queued("pacs")
    watched.scene.finish_job()
    for _ in range(4):
        delivery = watched.scene.claim_delivery("pacs")
        assert watched.scene.ledger.deliveries.defer(delivery, wait_s=900, reason="unreachable", sentence=SENTINEL)
        watched.pass_by(901)
    assert mail.mails == [], "since 1:00:04 only now"
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    (text,) = mail.texts
    assert "Delivery 1 to peer pacs has failed 4 times in a row since 2026-03-04 05:06:07 UTC" in text

    delivery = watched.scene.claim_delivery("pacs")
    watched.scene.send_all(delivery)
    watched.scene.ledger.deliveries.finish(delivery)
    watched.pass_by(1)
    watched.pass_by(PATIENCE.calm_s)
    watched.pass_by(PATIENCE.gather_s)
    assert mail.mails[1]["Subject"].endswith("all clear")


def test_a_disk_that_fills_is_told_and_when_it_is_full_again(
    watched: Watched, authority: Authority, mail: MailServer, tmp_path: Path
) -> None:
    marks = {"refuse_free_percent": 10.0, "warn_free_percent": 50.0}
    with tmpfs(tmp_path / "data", "size=1m") as data:
        watched.use(settings_for(data, authority, mail=mail, archive=marks))
        watched.pass_by(PATIENCE.gather_s)
        (data / "some").write_bytes(bytes(700_000))
        watched.pass_by(1)
        watched.pass_by(PATIENCE.gather_s)
        assert "nothing is accepted below 10 %" in mail.texts[0]
        (data / "more").write_bytes(bytes(290_000))
        watched.pass_by(PATIENCE.again_s)
        watched.pass_by(PATIENCE.gather_s)
        assert "below 10 % nothing is accepted" in mail.texts[1]
        (data / "some").unlink()
        (data / "more").unlink()
        watched.pass_by(PATIENCE.calm_s)
        watched.pass_by(PATIENCE.gather_s)
        assert mail.mails[2]["Subject"].endswith("all clear")


@pytest.mark.parametrize("of", ["tls.certificate", "cluster.cert"])
def test_a_certificate_is_told_at_thirty_days_and_again_at_seven(
    watched: Watched, authority: Authority, mail: MailServer, of: str
) -> None:
    """By the machine's clock when the certificate is made, and by the watch's when it is looked at."""
    issued = authority.issue("own", ends=timedelta(days=29))
    table, _, key = of.partition(".")
    tables: dict[str, Any] = {
        table: {key: str(issued.certificate), "key": str(issued.key), "ca": str(authority.certificate)}
    }
    if table == "cluster":
        tables["work"] = {"executor": "dask", "cluster": "tls://127.0.0.1:1"}
    watched.scene.clock.moment = SYSTEM_CLOCK.now()
    watched.use(settings_for(watched.folder, authority, mail=mail, **tables))
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    assert "expires in 28 days" in mail.texts[0]
    assert f"({of})" in mail.texts[0]
    watched.pass_by(timedelta(days=10).total_seconds())
    assert len(mail.mails) == 1
    watched.pass_by(timedelta(days=13).total_seconds())
    watched.pass_by(PATIENCE.gather_s)
    assert "expires in 5 days" in mail.texts[1]
    assert len(mail.mails) == 2


def test_the_letter_comes_in_a_week_in_which_nothing_happened(watched: Watched, mail: MailServer) -> None:
    watched.watch.write_letter()
    watched.pass_by(1)
    (letter,) = mail.mails
    assert letter["Subject"] == "[dicomnode DICOMNODE on here] the week: 0 derived, 0 rows waiting"
    assert "If it does not come, the node or its mail is down." in mail.texts[0]
    watched.pass_by(PATIENCE.again_s)
    assert len(mail.mails) == 1
    watched.pass_by(timedelta(days=7).total_seconds())
    watched.watch.write_letter()
    watched.pass_by(1)
    assert len(mail.mails) == 2


def test_the_letter_counts_the_week_by_reason_and_names_the_slowest_peer(watched: Watched, mail: MailServer) -> None:
    scene = watched.scene
    for number, reason in enumerate(("gaps", "gaps", "too_few")):
        assert scene.ledger.settling.keep(scene.settled(), 1, reason=reason, sentence=f"{SENTINEL} {number}")
    scene.queued("pacs", "other")
    measured = replace(derived(), figures=(figure("range", 0.4), figure("averages", 0.9)))
    assert scene.ledger.jobs.finish(scene.claim_job(), measured)
    for peer, seconds in (("pacs", 10), ("other", 300)):
        delivery = scene.claim_delivery(peer)
        scene.clock.advance(seconds)
        scene.ledger.deliveries.beat(delivery, lease_s=LEASE_S)
        scene.send_all(delivery)
        scene.ledger.deliveries.finish(delivery)
    watched.hold(reason="gone")
    watched.watch.write_letter()
    watched.pass_by(1)
    (text,) = mail.texts
    assert "5 series received, 1 derived." in text
    assert "gaps: 2" in text
    assert "too_few: 1" in text
    assert "job held, gone: 1, since " in text
    assert "1 result measured, 0 held. Nearest to its limit: averages, 90% of it." in text
    assert "other: 1 delivery, median 310 s, longest 310 s (the slowest peer)" in text
    assert SENTINEL not in text


def test_a_letter_that_was_due_while_the_node_was_down_is_sent_at_the_start(watched: Watched, mail: MailServer) -> None:
    now = watched.scene.clock.now()
    watched.watch.start(letter_due_at=now)
    watched.watch.stop()
    assert mail.mails == [], "the first start of all owes no letter"
    watched.restart()
    watched.watch.write_letter()
    watched.pass_by(1)
    assert len(mail.mails) == 1
    watched.scene.clock.advance(timedelta(days=8).total_seconds())
    watched.restart()
    watched.watch.start(letter_due_at=now + timedelta(days=7))
    watched.watch.stop()
    watched.watch.look()
    assert len(mail.mails) == 2


def test_what_was_raised_and_not_sent_survives_a_restart(watched: Watched, mail: MailServer) -> None:
    watched.hold()
    watched.pass_by(1)
    watched.restart()
    watched.pass_by(PATIENCE.gather_s)
    assert len(mail.mails) == 1
    watched.restart()
    watched.pass_by(PATIENCE.gather_s)
    assert len(mail.mails) == 1, "what was sent is not sent again"


def test_a_condition_that_ended_while_the_node_was_down_gets_its_all_clear(watched: Watched, mail: MailServer) -> None:
    series = watched.hold()
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    watched.restart()
    watched.scene.ledger.operator.cancel_series(series, "operator")
    for _ in range(3):
        watched.pass_by(PATIENCE.calm_s)
    assert [mail["Subject"].rpartition("] ")[2] for mail in mail.mails] == ["1 alert", "all clear"]


def test_a_kill_between_sending_and_recording_sends_again_and_loses_nothing(watched: Watched, mail: MailServer) -> None:
    def fail(name: str) -> None:
        if name == "alert.sent":
            raise KeyboardInterrupt

    watched.hold()
    watched.pass_by(1)
    set_checkpoint_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            watched.pass_by(PATIENCE.gather_s)
    finally:
        set_checkpoint_hook(None)
    watched.restart()
    watched.pass_by(1)
    assert len(mail.mails) == 2


def test_a_mail_server_that_is_down_is_named_by_status_and_told_later(
    watched: Watched, authority: Authority, hook: HookServer, mail: MailServer
) -> None:
    """The webhook gets its message meanwhile, once."""
    port = free_port()
    mail.port = port
    watched.use(settings_for(watched.folder, authority, mail=mail, hook=hook))
    watched.hold()
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    since = watched.scene.clock.now()
    watched.pass_by(PATIENCE.retry_min_s)
    with closing(open_reader(f"sqlite:///{watched.scene.path}")) as reader:
        (line,) = reader.undelivered()
    assert (line.destination, line.since) == ("mail", since)
    assert "Connection refused" in line.failure
    assert [body["kind"] for body in hook.bodies] == ["alerts"]
    with mail_server(authority, port=port) as back:
        watched.pass_by(10)
        assert back.mails == [], "it is not tried at each look"
        watched.pass_by(PATIENCE.retry_max_s)
        assert len(back.mails) == 1
    assert watched.reader.undelivered() == ()
    assert len(hook.bodies) == 1


def test_nothing_of_a_patient_and_no_uid_is_in_any_message(
    watched: Watched, authority: Authority, hook: HookServer, mail: MailServer
) -> None:
    watched.use(settings_for(watched.folder, authority, mail=mail, hook=hook))
    scene = watched.scene
    watched.hold(sentence=SENTINEL)
    kept = scene.settled()
    scene.ledger.settling.keep(kept, 1, reason="disagree", sentence=SENTINEL, alert=True, notes=[SENTINEL])
    scene.queued("pacs")
    scene.finish_job()
    delivery = scene.claim_delivery("pacs")
    scene.ledger.deliveries.hold(delivery, reason="refused", sentence=SENTINEL)
    watched.watch.write_letter()
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    assert len(mail.mails) == len(hook.bodies) == 2
    said = "".join([*map(str, mail.mails), *mail.texts, *map(str, hook.bodies)])
    assert SENTINEL not in said
    uids = [uid for (uid,) in scene.ask("SELECT series_uid FROM series WHERE series_uid IS NOT NULL")]
    assert uids
    assert not [uid for uid in uids if str(uid) in said]
    assert hook.paths == ["/services/T0K3N?room=mr"] * 2


def test_a_mail_server_that_takes_the_connection_and_is_silent_does_not_keep_the_node_from_stopping(
    watched: Watched, authority: Authority, mail: MailServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mail.port = silent.getsockname()[1]
        watched.use(settings_for(watched.folder, authority, mail=mail))
        watched.watch.write_letter()
        watched.watch.start(letter_due_at=None)
        connected, _ = silent.accept()
        began_s = time.monotonic()
        watched.watch.stop()
        assert time.monotonic() - began_s < TIMEOUT_S
        connected.close()
    wait_until(lambda: not any(thread.name == "alert" for thread in threading.enumerate()))


def test_what_one_look_raises_is_logged_and_the_next_look_comes(
    watched: Watched, mail: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    troubles: list[Exception] = [LedgerError("The ledger was busy."), OSError("no matter")]

    def look(_now: datetime) -> list[Condition]:
        if troubles:
            raise troubles.pop(0)
        return []

    ways = destinations(watched.settings.alert)
    watch = Watch(watched.scene.ledger.alerts, ways, node="here", conditions=look, letter=lambda _now: trial("here"))
    watch.start(letter_due_at=None)
    try:
        wait_until(lambda: len(troubles) == 1)
        watch.write_letter()
        wait_until(lambda: not troubles)
        watch.write_letter()
        wait_until(lambda: mail.mails)
    finally:
        watch.stop()
    said = [record.getMessage() for record in caplog.records if record.name == watch_module.__name__]
    assert said[:2] == ["alerts_paused", "alerts_failed"]


def test_new_destinations_are_told_from_the_next_look_on_and_what_stays_goes_on(
    watched: Watched, authority: Authority, mail: MailServer, hook: HookServer
) -> None:
    watched.use(settings_for(watched.folder, authority, mail=None))
    watched.hold()
    watched.pass_by(30)
    assert watched.scene.ledger.alerts.holding_names("mail") == [], "nobody is to be told"
    watched.watch.take(destinations(settings_for(watched.folder, authority, mail=mail).alert))
    watched.pass_by(30)
    watched.watch.take(destinations(settings_for(watched.folder, authority, mail=mail, hook=hook).alert))
    watched.pass_by(60)
    assert len(mail.mails) == 1
    watched.pass_by(60)
    assert len(hook.bodies) == 1
    assert len(mail.mails) == 1, "it was told before"


def test_settings_that_were_not_taken_are_told_until_they_are(watched: Watched, mail: MailServer) -> None:
    ledger, clock = watched.scene.ledger, watched.scene.clock
    boot = ledger.boots.begin(pid=1, host="here").boot
    ledger.boots.take_settings(boot, file="/etc/node.toml", sha256="00" * 32, at=clock.now())
    ledger.boots.refuse_settings(boot, fault="The settings hold a mistake:\n  peer.0.port: no such key", at=clock.now())
    watched.pass_by(1)
    watched.pass_by(PATIENCE.gather_s)
    (text,) = mail.texts
    assert "Errors" in text
    assert "The settings hold a mistake: peer.0.port: no such key" in " ".join(text.split())
    ledger.boots.take_settings(boot, file="/etc/node.toml", sha256="11" * 32, at=clock.now())
    watched.pass_by(1)
    watched.pass_by(PATIENCE.calm_s)
    watched.pass_by(PATIENCE.gather_s)
    assert len(mail.mails) == 2, "the all-clear"
