"""The tour: send two thick series through a node and a small PACS on this machine, and measure the results.

Everything except the hospital is real: sockets of 127.0.0.1, the same service as ``serve``, its own worker process. The
samples are sent as a scanner would send them. The measurements are taken at the PACS and in the ledger, not by the
parts that did the work. Data lie in a temporary folder that is removed at the end; only the pictures stay.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicomnode import wire
from dicomnode.demo.measure import Measured, measure
from dicomnode.demo.pacs import Pacs
from dicomnode.demo.picture import draw
from dicomnode.errors import InputError, PeerError
from dicomnode.generators import cubic_dc, model_dir
from dicomnode.ids import AeTitle
from dicomnode.imaging.headers import read_header
from dicomnode.ledger.queries import Reader, open_reader
from dicomnode.ledger.views import DeliveryLine, JobLine, SeriesDetail
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.service.service import Service
from dicomnode.settings.load import parse
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
SCANNER = AeTitle("SCANNER")
QUIET_S = 1.0  # the scanner is ours and never pauses
LIMIT_S = 900.0  # for one sample on a slow and busy machine
POLL_S = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A thick series that ships with the package."""

    name: str
    thick: Path
    truth: Path | None = None  # the thin series that the thick one was computed from
    volume: str = ""  # its name in model cards

    @property
    def files(self) -> list[Path]:
        """The files of its instances."""
        return sorted(self.thick.glob("*.dcm"))


ALL_SAMPLES = (
    Sample(name="prostate, T2", thick=SAMPLES / "prostatex_t2_tra", volume="prostatex"),
    Sample(
        name="brain, T2",
        thick=SAMPLES / "brain_m2307_t2" / "thick",
        truth=SAMPLES / "brain_m2307_t2" / "thin",
        volume="m2307_t2",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The seconds of each stage, from the moments in the ledger."""

    receive: float  # first instance to last
    settle: float  # the quiet time, then the verdict
    wait: float  # until the worker was warm and free
    derive: float
    deliver: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TourLine:
    """The result of the tour for one sample."""

    sample: str
    sent: int
    derived: int
    spacing_before_mm: float
    spacing_after_mm: float
    stages: Stages
    gain_db: float | None  # over cubic-dc, PSNR inside the body; None: the truth is unknown
    split: str  # the part of this volume in training, by the model's card
    found: int  # instances of the derived series, by C-FIND
    is_whole: bool  # true: all of them are at the PACS, with the bytes of the archive
    problem: str  # empty: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class TourReport:
    """The report at the end of the tour."""

    model: str
    samples: tuple[TourLine, ...]
    pictures: tuple[Path, ...]
    seconds: float

    @property
    def is_good(self) -> bool:
        """True if no sample has a problem."""
        return bool(self.samples) and not any(line.problem for line in self.samples)


def run_tour(out: Path, *, say: Say, samples: Sequence[Sample] = ALL_SAMPLES) -> TourReport:
    """Send the samples through a node that is made for the tour; write the pictures to ``out``."""
    for sample in samples:
        if not sample.files:
            raise InputError(f"The sample {sample.name} is not in this installation ({sample.thick}).")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dicomnode-demo-") as place, Pacs(Path(place) / "pacs") as pacs:
        settings = _settings(Path(place) / "node", pacs.port)
        service = Service(settings)
        say("starting a node and a PACS on 127.0.0.1")
        service.start()
        try:
            sent = [_send(sample, service.port, settings, say) for sample in samples]
            lines, pictures = [], []
            with closing(open_reader(settings.ledger_url)) as reader:
                for sample, count in zip(samples, sent, strict=True):
                    say(f"{sample.name}: waiting until it is derived and delivered")
                    detail = _wait(reader, read_header(sample.files[0]).series_uid)
                    line, measured = _look(reader, sample, count, detail, pacs)
                    lines.append(line)
                    if measured is not None:
                        pictures.append(draw(sample.name, line.split, model_dir.default_model(), measured, out))
        finally:
            say("stopping")
            service.stop()
    return TourReport(
        model=model_dir.default_model(),
        samples=tuple(lines),
        pictures=tuple(pictures),
        seconds=round(time.monotonic() - began, 1),
    )


def _settings(data: Path, pacs_port: int) -> Settings:
    """Return settings as a hospital would write them, for this machine alone."""
    return parse(
        {
            "node": {"listen": "127.0.0.1:0", "data": str(data)},
            "log": {"level": "warning"},
            "work": {"model_speed": "quality"},  # the demo shows the better model, however long it takes
            "receive": {"drain_s": 5},
            "settle": {"quiet_s": QUIET_S},
            "peer": [
                {"name": "scanner", "ae_title": SCANNER, "networks": ["127.0.0.1"]},
                {"name": "pacs", "ae_title": "PACS", "address": f"127.0.0.1:{pacs_port}"},
            ],
            "rule": [{"name": "thick", "match": {"slice_spacing_mm": ">= 2"}, "deliver_to": ["pacs"]}],
        },
        source="the demo's settings",
    )


def _send(sample: Sample, port: int, settings: Settings, say: Say) -> int:
    """Send one sample as a scanner does; return the number of its instances, all of them acknowledged."""
    node = PeerSettings(name="node", ae_title=settings.node.ae_title, address=f"127.0.0.1:{port}")
    say(f"{sample.name}: sending {len(sample.files)} thick slices")
    scanner = DimseCarrier(ae_title=SCANNER, push=settings.push)
    for result in send_files(scanner, node, sample.files):
        status = result.outcome.status
        if status is None or wire.status_of(status).action is not wire.Action.ACCEPT:
            raise PeerError(f"The node did not take {result.path.name}: {result.outcome.sentence}")
    return len(sample.files)


def _wait(reader: Reader, series_uid: str) -> SeriesDetail:
    """Wait until nothing more happens to the series by itself, and return it."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for row in reader.series_list():
            detail = reader.series_show(row.id, identify=True)
            if detail.series_uid == series_uid and _has_ended(detail):
                return detail
        time.sleep(POLL_S)
    raise PeerError(f"A sample was not through after {LIMIT_S:.0f} s.", hint="`dicomnode --debug demo` shows the log.")


def _has_ended(detail: SeriesDetail) -> bool:
    job = detail.jobs[-1] if detail.jobs else None
    if job is None:
        return detail.state == "kept"
    if job.state == "done":
        return all(delivery.state in ("sent", "held") for delivery in detail.deliveries)
    return job.state in ("held", "failed")


def _look(
    reader: Reader, sample: Sample, sent: int, detail: SeriesDetail, pacs: Pacs
) -> tuple[TourLine, Measured | None]:
    job = detail.jobs[-1] if detail.jobs else None
    if job is None or job.output_series is None or job.state != "done":
        problem = job.sentence if job else detail.sentence
        return _line(sample, sent, problem=problem), None
    derived = reader.series_show(job.output_series, identify=True)
    assert derived.series_uid, "asked to identify"
    measured = measure(
        sample.files,
        sample.truth,
        pacs,
        series_uid=derived.series_uid,
        archived={file.sha256 for file in derived.files},
    )
    delivery = detail.deliveries[-1] if detail.deliveries else None
    line = _line(
        sample, sent, derived=derived.instances, stages=_stages(detail, job, delivery), measured=measured,
        split=_split(job.model, sample.volume), problem=_problem(delivery, derived.instances, measured, job),
    )  # fmt: skip
    return line, measured


def _line(
    sample: Sample,
    sent: int,
    *,
    problem: str,
    derived: int = 0,
    stages: Stages | None = None,
    measured: Measured | None = None,
    split: str = "",
) -> TourLine:
    return TourLine(
        sample=sample.name,
        sent=sent,
        derived=derived,
        spacing_before_mm=round(measured.thick.slice_spacing_mm, 3) if measured else 0.0,
        spacing_after_mm=round(measured.derived.slice_spacing_mm, 3) if measured else 0.0,
        stages=stages or Stages(receive=0.0, settle=0.0, wait=0.0, derive=0.0, deliver=0.0),
        gain_db=None if measured is None or measured.gain_db is None else round(measured.gain_db, 2),
        split=split,
        found=measured.found if measured else 0,
        is_whole=bool(measured and measured.is_identical and measured.found == derived),
        problem=problem,
    )


def _problem(delivery: DeliveryLine | None, derived: int, measured: Measured, job: JobLine) -> str:
    """Say which claim is the first that is not true; empty if all are."""
    if delivery is None or delivery.state != "sent":
        return delivery.sentence if delivery else "Nothing was delivered."
    if measured.found != derived:
        return f"C-FIND found {measured.found} of {derived} derived instances at the PACS."
    if not measured.is_identical:
        return "What the PACS holds is not, byte for byte, what the archive holds."
    is_learned = job.model != cubic_dc.NAME
    if is_learned and measured.gain_db is not None and measured.gain_db <= 0:
        return f"Model {job.model} is not better than interpolation here ({measured.gain_db:+.2f} dB)."
    return ""


def _stages(detail: SeriesDetail, job: JobLine, delivery: DeliveryLine | None) -> Stages:
    derive_s = job.seconds or 0.0
    return Stages(
        receive=_between(detail.first_at, detail.last_at),
        settle=_between(detail.last_at, job.created_at),
        wait=max(0.0, round(_between(job.created_at, job.finished_at) - derive_s, 2)),
        derive=round(derive_s, 2),
        deliver=_between(job.finished_at, delivery.sent_at if delivery else None),
    )


def _between(begin: datetime | None, end: datetime | None) -> float:
    return round((end - begin).total_seconds(), 2) if begin and end else 0.0


def _split(model: str, volume: str) -> str:
    """Return the part of a volume in the training of the model, by its card."""
    folder = model_dir.shipped_models().get(model)
    if folder is None:
        return "no training"
    rows = model_dir.read_card(folder).data
    return next((row.split for row in rows if row.volume == volume), "never seen")
