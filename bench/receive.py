"""Durable receive against a handler that only writes the bytes, and against Orthanc: same files, same sender.

    python bench/receive.py            400 MR instances of 512 × 512 (0.5 MB each), five alternating rounds
    python bench/receive.py --tls      over TLS against plain, both of this node, with certificates on both sides
    python bench/receive.py --toy      small and short, to see that it still runs

Senders are DCMTK's ``storescu`` with TCP_NODELAY=1, each with its share of the files; time is that of the last one
to end, process start included. The flush latency (fdatasync of one object's size) is measured before and after each
run on the same disk. Bars: one association, time <= 1.15 x (bare + 3 flushes per instance); 4 and 16 associations,
throughput >= 0.85 x bare; at each number throughput >= Orthanc's, though Orthanc acknowledges after one flush. With
--tls: throughput >= 0.8 x plain at each number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.certificates import Authority
from tests.support.dcmtk import environment, find_program, free_port, is_listening, program
from tests.support.dicom import write_series
from tests.support.orthanc import orthanc
from tests.support.wait import wait_until

TIME_BAR = 1.15
THROUGHPUT_BAR = 0.85
ORTHANC_BAR = 1.0
TLS_BAR = 0.8
CERTIFICATES = ("ca.pem", "node.pem", "node.key")  # in the folder that the variable names
CERTIFICATES_VARIABLE = "BENCH_CERTIFICATES"
FLUSHES = 3


def serve_ours(data: Path, port: int) -> None:
    """The node's own receiver, archive and ledger, and nothing else of it; under TLS where there are certificates."""
    from dicomnode import log
    from dicomnode.archive.store import Archive
    from dicomnode.ids import AeTitle
    from dicomnode.ledger.store import open_ledger
    from dicomnode.receive.scp import Receiver
    from dicomnode.settings.models import ArchiveSettings, NodeSettings, ReceiveSettings, Settings, TlsSettings
    from dicomnode.tls.identity import Identity

    address, tls = f"127.0.0.1:{port}", TlsSettings()
    if folder := os.environ.get(CERTIFICATES_VARIABLE):
        ca, certificate, key = (str(Path(folder) / name) for name in CERTIFICATES)
        tls = TlsSettings(listen=address, certificate=certificate, key=key, ca=ca)
    log.start_logging("info", "json")
    archive = Archive(data)
    archive.data_folder.lock()
    receiver = Receiver(
        node=NodeSettings(ae_title=AeTitle("BENCH"), listen="" if tls.listen else address, data=data),
        receive=ReceiveSettings(),
        disk=ArchiveSettings(),
        peers=Settings().peer,
        ledger=open_ledger(f"sqlite:///{data / 'ledger.sqlite'}"),
        archive=archive,
        wake=lambda: None,
        tls=tls,
        identity=Identity(tls) if tls.listen else None,
    )
    receiver.start()
    while True:
        time.sleep(60)


def serve_bare(data: Path, port: int) -> None:
    """Serve as a first script with pynetdicom does: no flush, no record, no limits."""
    from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
    from pynetdicom.dimse_primitives import C_STORE

    _config.LOG_HANDLER_LEVEL = "none"

    def store(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        (data / str(event.request.AffectedSOPInstanceUID)).write_bytes(event.encoded_dataset())
        return 0

    ae = AE("BENCH")
    ae.maximum_associations = 64
    ae.supported_contexts = AllStoragePresentationContexts[:120]
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


SERVERS: dict[str, Callable[[Path, int], None]] = {"ours": serve_ours, "bare": serve_bare}


@contextlib.contextmanager
def receiver(name: str, folder: Path, cpu: list[float], certificates: Path | None = None) -> Iterator[int]:
    """One of the receivers in a process of its own, with a fresh folder; ``cpu`` gains its seconds of processor."""
    folder.mkdir(parents=True)
    if name == "orthanc":
        settings = {"DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True, "OverwriteInstances": True}
        with orthanc(folder, settings=settings) as running:
            yield running.dicom_port
        return
    port = free_port()
    command = [sys.executable, __file__, "--serve", name, str(folder), str(port)]
    surroundings = {**os.environ, **({CERTIFICATES_VARIABLE: str(certificates)} if certificates else {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=surroundings)
    try:
        wait_until(lambda: is_listening(port), 30.0, f"{name} listens")
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        yield port
        cpu.append(sum(psutil.Process(process.pid).cpu_times()[:2]) - before)
    finally:
        process.kill()
        process.wait()


def send(port: int, files: list[Path], senders: int, *options: str) -> float:
    """Seconds until the last of the senders is done, each having got only successes."""
    shares = [files[start::senders] for start in range(senders)]
    command = [program("storescu"), "-xe", "-aec", "BENCH", *options, "127.0.0.1", str(port)]
    began = time.perf_counter()
    running = [subprocess.Popen([*command, *map(str, share)], env=environment()) for share in shares]
    codes = [one.wait() for one in running]
    seconds = time.perf_counter() - began
    assert not any(codes), f"a sender was refused: {codes}"
    return seconds


def flush_latency(folder: Path, size_bytes: int) -> float:
    """Median seconds of the fdatasync of one new file of this size."""
    content = os.urandom(size_bytes)
    taken = []
    for number in range(20):
        descriptor = os.open(folder / f"flush{number}", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, content)
        began = time.perf_counter()
        os.fdatasync(descriptor)
        taken.append(time.perf_counter() - began)
        os.close(descriptor)
        (folder / f"flush{number}").unlink()
    return statistics.median(taken)


def measure(work: Path, files: list[Path], senders: int, rounds: int, names: list[str]) -> dict[str, float | str]:
    """Alternate the receivers; medians, and the median of the rounds' ratios, which has the bar.

    A ratio compares only what ran within the same minute: on a shared disk a flush takes 0.5 ms now and 4 ms later.
    """
    taken: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    flushes, ratios = [], []
    size_bytes = files[0].stat().st_size
    for number in range(rounds):
        flush = []
        for name in names if number % 2 == 0 else reversed(names):
            folder = work / f"{name}-{senders}-{number}"
            os.sync()
            flush.append(flush_latency(work, size_bytes))
            with receiver(name, folder, cpu[name]) as port:
                taken[name].append(send(port, files, senders))
            flush.append(flush_latency(work, size_bytes))
            shutil.rmtree(folder)
        flushes.append(statistics.mean(flush))
        allowed = taken["bare"][-1] + (FLUSHES * flushes[-1] * len(files) if senders == 1 else 0.0)
        ratios.append(taken["ours"][-1] / allowed if senders == 1 else allowed / taken["ours"][-1])
    result: dict[str, float | str] = {"senders": senders, "instances": len(files), "size_bytes": size_bytes}
    result |= {f"{name}_s": round(statistics.median(values), 3) for name, values in taken.items()}
    result |= {f"{name}_cpu_s": round(statistics.median(values), 3) for name, values in cpu.items() if values}
    result |= {"flush_ms": round(statistics.median(flushes) * 1000, 3), "rounds": rounds}
    name, bar = ("time_to_bare_and_flushes", TIME_BAR) if senders == 1 else ("throughput_to_bare", THROUGHPUT_BAR)
    if "orthanc" in names:
        to_orthanc = [theirs / ours for theirs, ours in zip(taken["orthanc"], taken["ours"], strict=True)]
        result |= {"throughput_to_orthanc": round(statistics.median(to_orthanc), 3), "orthanc_bar": f">= {ORTHANC_BAR}"}
    return result | {name: round(statistics.median(ratios), 3), "bar": f"{'<=' if senders == 1 else '>='} {bar}"}


def measure_tls(work: Path, files: list[Path], senders: int, rounds: int) -> dict[str, float | str]:
    """Alternate plain and TLS; the median of the rounds' ratios of throughput."""
    authority = Authority(work, f"authority-{senders}")
    ours, theirs = authority.issue("node"), authority.issue("scanner")
    certificates = work / f"certificates-{senders}"
    certificates.mkdir()
    for name, file in zip(CERTIFICATES, (authority.certificate, ours.certificate, ours.key), strict=True):
        shutil.copy(file, certificates / name)
    options = ["+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.certificate)]
    taken: dict[str, list[float]] = {"plain": [], "tls": []}
    cpu: dict[str, list[float]] = {"plain": [], "tls": []}
    for number in range(rounds):
        for name in ("plain", "tls") if number % 2 == 0 else ("tls", "plain"):
            folder = work / f"{name}-{senders}-{number}"
            os.sync()
            is_tls = name == "tls"
            with receiver("ours", folder, cpu[name], certificates if is_tls else None) as port:
                taken[name].append(send(port, files, senders, *(options if is_tls else [])))
            shutil.rmtree(folder)
    ratios = [plain / tls for plain, tls in zip(taken["plain"], taken["tls"], strict=True)]
    result: dict[str, float | str] = {"senders": senders, "instances": len(files), "rounds": rounds}
    result |= {f"{name}_s": round(statistics.median(values), 3) for name, values in taken.items()}
    result |= {f"{name}_cpu_s": round(statistics.median(values), 3) for name, values in cpu.items()}
    return result | {"tls_throughput_to_plain": round(statistics.median(ratios), 3), "bar": f">= {TLS_BAR}"}


def main() -> None:
    """Print one JSON line for each number of senders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--senders", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--serve", nargs=3, metavar=("WHICH", "FOLDER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        which, folder, port = options.serve
        SERVERS[which](Path(folder), int(port))
        return
    if find_program("storescu") is None:
        sys.exit("DCMTK's storescu is not installed")
    names = ["bare", "ours", *(["orthanc"] if shutil.which("Orthanc") and not options.toy else [])]
    count, size, rounds = (16, 64, 1) if options.toy else (400, 512, options.rounds)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        files = write_series(Path(folder) / "files", count, size=size)
        for senders in options.senders:
            if options.tls:
                result = measure_tls(Path(folder), files, senders, rounds)
            else:
                result = measure(Path(folder), files, senders, rounds, names)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
