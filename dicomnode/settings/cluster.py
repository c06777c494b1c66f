"""The keys for the place where jobs run: this machine or a cluster, and the two kinds of machines of a cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dicomnode.settings.addresses import HostPort, Listening, split_address
from dicomnode.settings.values import Count, Hours, Seconds
from dicomnode.strict_toml import StrictModel, fail

TLS = "tls://"  # every address of a cluster begins so: there is no other way to reach one


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", text):
        fail("expected auto, cpu, cuda or cuda:N")
    return text


def _cluster_address(text: str) -> str:
    if not text.startswith(TLS) or not split_address(text.removeprefix(TLS))[1]:
        fail('expected tls://address:port, such as "tls://10.1.0.9:8786"')
    return text


def _cluster_address_or_none(text: str) -> str:
    return text and _cluster_address(text)


MaybeClusterAddress = Annotated[str, AfterValidator(_cluster_address_or_none)]
Device = Annotated[str, AfterValidator(_device)]
ModelSpeed = Literal["auto", "quality", "fast"]


class WorkSettings(StrictModel):
    """The place where jobs run, and their limits of time and memory."""

    executor: Literal["local", "dask"] = "local"
    cluster: MaybeClusterAddress = ""  # address of the scheduler
    slots: Count = 1
    device: Device = "auto"
    model_speed: ModelSpeed = "auto"  # which model rules get that name none
    time_limit_s: Seconds = 3600.0
    memory_limit_mb: Annotated[int, Field(ge=0, le=1 << 24)] = 0  # 0: three quarters of the machine
    offpeak_hours: Hours = ""  # each day; jobs of rules with priority offpeak begin in them only

    @model_validator(mode="after")
    def _slots_are_of_a_cluster(self) -> Self:
        if self.executor == "dask" and not self.cluster:
            fail('executor is "dask", which needs the address of a cluster in the key cluster')
        if self.executor == "local" and self.slots > 1:
            fail('slots above 1 need executor = "dask": this machine runs one job at a time')
        return self


class ClusterSettings(StrictModel):
    """Certificates with which this machine and the others of a cluster know each other."""

    ca: str = ""  # PEM file of the authority of this cluster alone
    cert: str = ""  # PEM file of this machine's certificate
    key: str = ""  # PEM file of its private key

    @property
    def missing(self) -> tuple[str, ...]:
        """The keys that are not set."""
        return tuple(name for name in ("ca", "cert", "key") if not getattr(self, name))


class WorkerSettings(Listening):
    """The settings of `dicomnode worker`: where a worker of a cluster is reached, and which models it offers."""

    listen: HostPort = "127.0.0.1:8790"
    models: tuple[Annotated[str, Field(min_length=1)], ...] = ("thin",)  # names, or paths of model directories


class SchedulerSettings(Listening):
    """The settings of `dicomnode scheduler`: where nodes and workers of a cluster meet."""

    listen: HostPort = "127.0.0.1:8786"
