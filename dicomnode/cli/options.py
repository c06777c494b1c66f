"""Options that several commands share, and functions that open the settings, the ledger and a folder for results."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dicomnode.errors import InputError, StorageError

if TYPE_CHECKING:
    from dicomnode.ledger.queries import Reader
    from dicomnode.ledger.store import Ledger
    from dicomnode.settings.models import Settings
    from dicomnode.settings.peers import PeerSettings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

config_option: Decorator = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Read the settings from FILE. Default: the file that DICOMNODE_CONFIG names, else "
    "/etc/dicomnode/dicomnode.toml if it exists, else the embedded defaults.",
)
device_option: Decorator = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Run the network on this device: auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:N.",
)
features_file_option: Decorator = click.option(
    "--features-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the weights of VGG19 from this safetensors file. Default: torchvision downloads them.",
)
features_sha256_option: Decorator = click.option(
    "--features-sha256",
    metavar="HEX",
    help="Read the features file only if its SHA-256 is HEX. Required with --features-file.",
)
id_argument: Decorator = click.argument("number", metavar="ID", type=click.IntRange(min=1))
json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text; docs/cli.md lists the fields."
)


def load_settings(config: Path | None) -> Settings:
    """Read the settings of this run from ``config``, or from the file that applies without it."""
    from dicomnode.settings.load import load

    return load(config, os.environ)


@contextmanager
def reader(config: Path | None) -> Iterator[Reader]:
    """Open the ledger for reading; the service may run at the same time."""
    settings = load_settings(config)
    from dicomnode.ledger.queries import open_reader

    with closing(open_reader(settings.ledger_url, peers=settings.reachable_peers)) as ledger:
        yield ledger


@contextmanager
def writer(config: Path | None) -> Iterator[Ledger]:
    """Open the ledger for an operator's change, which the service sees within seconds. Does not create a ledger."""
    settings = load_settings(config)
    with reader(config):
        pass
    from dicomnode.ledger.store import open_ledger

    with closing(open_ledger(settings.ledger_url)) as ledger:
        yield ledger


def new_folder(out: Path, undone: str) -> Path:
    """Return ``out`` without symbolic links. Raises InputError, ending in ``undone``, unless it is new or empty."""
    place = out.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{out} is not empty; {undone}.", hint="Name a new folder.")
    if (
        place.is_mount() or place == Path.cwd()
    ):  # the result replaces the empty folder, which is impossible for these two
        what = "the folder of a mounted disk" if place.is_mount() else "the folder that you are in"
        raise InputError(
            f"{out} is {what}, which the result cannot take the place of; {undone}.", hint="Name a new folder in it."
        )
    return place


@contextmanager
def kept(out: Path, undone: str) -> Iterator[None]:
    """Turn a failure to write ``out`` into an error of one sentence that ends in ``undone``."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        if out.is_dir() and any(out.iterdir()):  # another program wrote into it since it was checked
            raise InputError(f"{out} is not empty any more; {undone}.", hint="Name a new folder.") from exc
        raise StorageError(
            f"{out} could not be written: {exc.strerror}; {undone}.",
            hint="See that the folder above it may be written to and that the disk has room.",
        ) from exc


def refuse_given(options: Collection[str], why: str, hint: str) -> None:
    """Raise InputError if the command line gave one of these options (parameter names), which would have no effect."""
    command = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in command.command.params
        if parameter.name in options
        and command.get_parameter_source(parameter.name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        have = "has" if len(given) == 1 else "have"
        raise InputError(f"{' and '.join(given)} {have} no effect {why}.", hint=hint)


def all_options_but(*kept: str) -> set[str]:
    """Return the names of all parameters of the running command except ``kept``."""
    parameters = click.get_current_context().command.params
    return {parameter.name for parameter in parameters if parameter.name} - set(kept)


def operator() -> str:
    """Return the name of the person at the command line, for the event row."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's user without a name
        return f"operator:{os.getuid()}"


def configured_peers(config: Path | None) -> set[str]:
    """Return the names of all peers of the settings, with or without an address."""
    return {peer.name for peer in load_settings(config).peer}


def find_peer(settings: Settings, name: str) -> PeerSettings:
    """Find the configured peer of that name. Raises InputError if there is none that is sent to."""
    reachable = {peer.name: peer for peer in settings.peer if peer.is_sent_to}
    if name not in reachable:
        known = ", ".join(sorted(reachable)) or "none"
        raise InputError(
            f"No peer named {name} with an address or url is configured.", hint=f"Peers with one: {known}."
        )
    return reachable[name]
