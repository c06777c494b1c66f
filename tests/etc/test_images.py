"""The images and what runs them: no root, nothing written but where it must be, no part under the GPL, files that fit.

Only the files are read here; ``test_install`` runs the step of the build, and what it installed.
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dicomnode.settings.load import parse

ROOT = Path(__file__).resolve().parents[2]
ETC = ROOT / "etc"
TARGETS = {"node": "serve", "worker": "worker", "scheduler": "scheduler"}
TABLES = {"serve": "dicomnode.toml", "worker": "worker.toml", "scheduler": "scheduler.toml"}
KUBERNETES = "1.30"
CERTIFICATES = "/etc/dicomnode/cluster"

Stage = list[tuple[str, str]]  # instruction, the rest of its line


def stages() -> dict[str, Stage]:
    """The stages of the Containerfile, by name."""
    text = re.sub(r"\\\n\s*", "", (ETC / "Containerfile").read_text("utf-8"))
    found: dict[str, Stage] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.partition(" AS ")[2]] = [(word, rest)]
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append((word, rest))
    return found


def one(stage: Stage, instruction: str) -> str:
    """The only line of a stage with this instruction."""
    (line,) = [rest for word, rest in stage if word == instruction]
    return line


def users() -> dict[str, str]:
    """Target → the number of its user."""
    return {target: one(stages()[target], "USER") for target in TARGETS}


def manifests() -> list[dict[str, Any]]:
    """The objects of the example for Kubernetes."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all((ETC / "kubernetes.yaml").read_text("utf-8")))


def test_each_image_runs_its_command_as_a_user_of_its_own() -> None:
    found = stages()
    assert list(found) == ["build", "base", *TARGETS]
    for target, command in TARGETS.items():
        assert one(found[target], "FROM") == f"base AS {target}"
        words = json.loads(one(found[target], "CMD"))
        assert words == [command, "--config", f"/etc/dicomnode/{TABLES[command]}"]
        assert (ETC / TABLES[command]).is_file()
    assert len(set(users().values())) == 3
    assert all(int(user) >= 10_000 for user in users().values())


def test_no_variable_of_an_image_overrules_the_settings_file() -> None:
    assert not [rest for stage in stages().values() for word, rest in stage if word == "ENV" and "DICOMNODE_" in rest]


def test_an_image_holds_what_the_script_installed_and_nothing_that_the_build_left() -> None:
    found = stages()
    assert one(found["build"], "RUN").endswith("etc/install.sh /opt/dicomnode")
    assert [rest for word, rest in found["base"] if word == "COPY"] == [
        "--from=build /opt/dicomnode /opt/dicomnode",
        "LICENSE THIRD_PARTY_NOTICES.md /opt/dicomnode/",
    ]
    assert not any(word in {"ADD", "MAINTAINER"} for stage in found.values() for word, _ in stage)
    assert not any(":latest" in rest for stage in found.values() for _, rest in stage)


@pytest.mark.parametrize("target", TARGETS)
def test_podman_runs_an_image_without_rights_on_a_system_that_is_read_only(target: str) -> None:
    name = "dicomnode" if target == "node" else f"dicomnode-{target}"
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ETC / "quadlets" / f"{name}.container", "utf-8")
    container = parser["Container"]
    assert container["Image"] == f"localhost/dicomnode-{target}:latest"
    assert container["User"] == users()[target]
    assert (container["ReadOnly"], container["NoNewPrivileges"], container["DropCapability"]) == ("true", "true", "all")
    text = (ETC / "quadlets" / f"{name}.container").read_text("utf-8")
    written = [line for line in re.findall(r"^Volume=(.*)$", text, re.MULTILINE) if not line.endswith(":ro")]
    assert written == (["/var/lib/dicomnode:/var/lib/dicomnode:rw"] if target == "node" else [])
    assert container["Notify"] == "true", "systemd hears from the program when it is ready"
    stops_s = int(container["PodmanArgs"].removeprefix("--stop-timeout="))
    assert stops_s < int(parser["Service"]["TimeoutStopSec"]), "podman ends it before systemd kills podman"


def test_kubernetes_runs_the_images_without_rights_on_a_system_that_is_read_only() -> None:
    deployments = {one["metadata"]["name"]: one for one in manifests() if one["kind"] == "Deployment"}
    assert set(deployments) == {"dicomnode-scheduler", "dicomnode-worker"}
    for name, deployment in deployments.items():
        target = name.removeprefix("dicomnode-")
        pod = deployment["spec"]["template"]["spec"]
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(pod["securityContext"]["runAsUser"]) == users()[target]
        assert not pod["automountServiceAccountToken"]
        (container,) = pod["containers"]
        assert container["args"] == json.loads(one(stages()[target], "CMD"))
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert written == ["/tmp"]  # noqa: S108 (of the container)


def test_the_objects_for_kubernetes_are_what_its_schemas_describe() -> None:
    judge = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for found in manifests():
        judge.validate(found, KUBERNETES, strict=True)
        with pytest.raises(judge.ValidationError):
            judge.validate(found | {"unknown": 1}, KUBERNETES, strict=True)


def test_the_settings_for_kubernetes_are_settings_and_name_the_files_of_the_secret() -> None:
    objects = manifests()
    (secret,) = [one for one in objects if one["kind"] == "Secret"]
    (configured,) = [one for one in objects if one["kind"] == "ConfigMap"]
    for name, text in configured["data"].items():
        settings = parse(tomllib.loads(text))
        assert (ETC / name).is_file()
        for file in settings.cluster.model_dump().values():
            folder, _, key = file.rpartition("/")
            assert folder == CERTIFICATES
            assert key in secret["stringData"]
    (service,) = [one for one in objects if one["kind"] == "Service"]
    worker = parse(tomllib.loads(configured["data"]["worker.toml"]))
    assert worker.work.cluster == f"tls://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    names = [
        variable["name"]
        for one in objects if one["kind"] == "Deployment"
        for variable in one["spec"]["template"]["spec"]["containers"][0]["env"]
    ]  # fmt: skip
    for name in names:
        if name.startswith("DICOMNODE_"):
            table, key = name.removeprefix("DICOMNODE_").lower().split("__")
            assert hasattr(getattr(worker, table), key)
