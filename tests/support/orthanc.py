"""A real Orthanc as the PACS: its own ports and folder, ready when handed over, gone afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.dcmtk import environment, free_port, is_listening
from tests.support.wait import wait_until

AE_TITLE = "ORTHANC"
START_LIMIT_S = 30.0

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
WITH_DICOMWEB = {"Plugins": [str(DICOMWEB)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}

needs_dicomweb = pytest.mark.skipif(not DICOMWEB.exists(), reason="Orthanc's DICOMweb plugin is not installed")
needs_orthanc = pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """A running Orthanc."""

    dicom_port: int
    http_port: int

    @property
    def dicomweb_url(self) -> str:
        """The root of its DICOMweb service, where it has been started with it."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def get(self, path: str) -> object:
        """The answer of its REST API, as JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return json.load(answer)

    def register(self, ae_title: str, port: int, **more: object) -> None:
        """Tell it where an application of this machine listens; it reports to nobody else."""
        body = json.dumps({"AET": ae_title, "Host": "127.0.0.1", "Port": port, **more}).encode()
        with closing(HTTPConnection("127.0.0.1", self.http_port, timeout=10)) as connection:
            connection.request("PUT", f"/modalities/{ae_title}", body)
            assert connection.getresponse().status == 200

    def sop_instance_uids(self) -> list[str]:
        """SOP Instance UIDs of all that it holds."""
        instances = self.get("/instances?expand")
        assert isinstance(instances, list)
        return [one["MainDicomTags"]["SOPInstanceUID"] for one in instances]

    def series(self) -> dict[str, int]:
        """Series Instance UID → number of instances."""
        found = self.get("/series?expand")
        assert isinstance(found, list)
        return {one["MainDicomTags"]["SeriesInstanceUID"]: len(one["Instances"]) for one in found}

    def files(self) -> dict[str, bytes]:
        """SOP Instance UID → the Part 10 file as Orthanc gives it back."""
        instances = self.get("/instances?expand")
        assert isinstance(instances, list)
        found = {}
        for one in instances:
            url = f"http://127.0.0.1:{self.http_port}/instances/{one['ID']}/file"
            with urllib.request.urlopen(url, timeout=10) as answer:
                found[one["MainDicomTags"]["SOPInstanceUID"]] = answer.read()
        return found


@contextmanager
def orthanc(
    folder: Path, *, settings: Mapping[str, object] | None = None, has_nagle: bool = False
) -> Iterator[Orthanc]:
    """Start Orthanc with everything below the folder; ``settings`` overrides keys of its configuration.

    ``has_nagle``: leave Nagle's algorithm on, as an Orthanc has it that nobody told otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = Orthanc(dicom_port=free_port(), http_port=free_port())
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomAet": AE_TITLE,
        "DicomPort": running.dicom_port,
        "HttpPort": running.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckCalledAet": True,
        "Plugins": [],
        **(settings or {}),
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as said:
        process = subprocess.Popen(
            [shutil.which("Orthanc") or "Orthanc", file],
            env={**environment(), "TCP_NODELAY": "0"} if has_nagle else environment(),
            stdout=said,
            stderr=said,
        )
    try:
        wait_until(
            lambda: is_listening(running.http_port) and is_listening(running.dicom_port),
            START_LIMIT_S,
            "Orthanc listens",
        )
        yield running
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
