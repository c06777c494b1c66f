"""The model directory: a card, weights, metrics, and the digests that hold them together.

In: a name or a folder. Out: facts for whoever only has to know (no torch is loaded for them), or the generator.
Nothing is ever unpickled, nothing is loaded that was not compared with its digest first, and the bytes that
were compared are the bytes that are loaded.

    card.toml             what the model is, what it was trained on, what it is for, where it fails
    weights.safetensors       where the card has a sharpness, those of the fidelity stage …
    adversarial.safetensors   … and, only then, those of the adversarial stage that began with them
    metrics.json          one row per subject, for people and programs that want more than the card's summary
    SHA256SUMS            as ``sha256sum`` writes it; its own sha256 is the digest of the model
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomnode import durable, ids
from dicomnode.errors import ModelError
from dicomnode.generators.base import Generator
from dicomnode.generators.card import REINSTALL, Card, VerifiedModel, card_toml, parse_card
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.kinds import Kind
from dicomnode.imaging.profile import RATIO_LIMITS

CARD_FILE = "card.toml"
WEIGHTS_FILE = "weights.safetensors"
ADVERSARIAL_FILE = "adversarial.safetensors"
METRICS_FILE = "metrics.json"
SUMS_FILE = "SHA256SUMS"

SHIPPED = Path(__file__).resolve().parent.parent / "models"
LEARNED_DEFAULT = "thin"
FAST_DEFAULT = "thin-fast"  # in its place where it would be late
IMPORTED_FOLDER = "models"  # below the data folder: <name>/<first digits of the digest>/
DIGEST_DIGITS = 12
FILE_LIMIT_BYTES = 1 << 30  # of any file of the directory: 200 times the largest network that we know of
# Plain names only: a listed "../x" would be read outside the folder.
SUMS_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The facts of a model that everyone but the worker needs."""

    name: str
    kind: Kind
    digest: str
    ratios: tuple[int, int]
    default: bool
    sharpness: float | None = None  # default of its dial; None: it has none
    consistency: bool = True  # is what was measured put back?
    why: str = ""  # it is the default in place of a better one, in a sentence

    @property
    def pinned(self) -> str:
        """``NAME@DIGEST``: this model and no other of its name."""
        return f"{self.name}@{self.digest}"


def read_card(folder: Path) -> Card:
    """The card alone, not compared with any digest: for showing, not for deciding."""
    return parse_card(_read(folder, CARD_FILE), folder / CARD_FILE)


def write_card(folder: Path, card: Card) -> None:
    """Write ``card.toml``; ``seal`` follows when all files are there."""
    text = card_toml(card).encode()
    assert parse_card(text, folder / CARD_FILE) == card
    durable.write_file(folder / CARD_FILE, [text])


def seal(folder: Path) -> str:
    """Write SHA256SUMS over all files of the folder, and give the digest that this makes."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS_FILE)
    lines = [f"{ids.digest(_read(folder, name))}  {name}\n" for name in names]
    durable.write_file(folder / SUMS_FILE, ["".join(lines).encode()])
    durable.sync_folder(folder)
    return verify(folder)


def verify(folder: Path) -> str:
    """The digest of the directory; ModelError names the file that is missing, altered or not listed."""
    return _read_verified(folder).digest


def shipped_models() -> dict[str, Path]:
    """Name → folder of the models that came with the package."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{CARD_FILE}"))}


def default_model(imported: Collection[str] = (), *, is_fast: bool = False) -> str:
    """The model of a rule that names none: ``thin`` once it ships or is among ``imported``, else ``cubic-dc``.

    ``is_fast``: ``thin-fast`` instead, where that ships or is among ``imported``.
    """
    there = {*shipped_models(), *imported}
    wanted = (FAST_DEFAULT, LEARNED_DEFAULT) if is_fast else (LEARNED_DEFAULT,)
    return next((name for name in wanted if name in there), Kind.CUBIC_DC.value)


def model_names() -> tuple[str, ...]:
    """Every name that a rule may use."""
    return (Kind.CUBIC_DC.value, *shipped_models())


def model_facts(model: str | Path) -> ModelFacts:
    """Facts of a model given by name or folder, after its files were compared with their digests."""
    default = model == default_model()
    if model == Kind.CUBIC_DC:
        generator = CubicDc()
        return ModelFacts(
            name=generator.name, kind=Kind.CUBIC_DC, digest=generator.digest, ratios=RATIO_LIMITS, default=default
        )
    verified = find_verified(model)
    card = verified.card
    return ModelFacts(
        name=card.name, kind=card.kind, digest=verified.digest, ratios=card.ratios, default=default,
        sharpness=card.sharpness, consistency=card.consistency,
    )  # fmt: skip


def load_generator(model: str | Path) -> Generator:
    """The generator of a name or folder; torch is loaded here, and only for a network."""
    if model == Kind.CUBIC_DC:
        return CubicDc()
    from dicomnode.generators.served import serve  # torch: seconds that nobody else should have to wait for

    return serve(find_verified(model))


def imported_folder(data: Path, name: str, digest: str) -> Path:
    """The path of an imported model below the node's data folder."""
    return data / IMPORTED_FOLDER / name / digest[:DIGEST_DIGITS]


def pinned_model(name: str, digest: str, data: Path | None) -> tuple[ModelFacts, str | Path]:
    """Facts of the one model with this name and digest, and what ``load_generator`` takes for it.

    It came with the package or was imported into the data folder; its files were just compared with their digests.
    Raises ModelError where it is altered or nowhere: another model is never given in its place.
    """
    places: list[str | Path] = [name] if name in model_names() else []
    if data is not None:
        places.append(imported_folder(data, name, digest))
    found = []
    for place in places:
        seen = _digest_at(place)
        if seen == digest:
            facts = model_facts(place)
            if (facts.name, facts.digest) == (name, digest):
                return facts, place
            seen = facts.digest
        found += [seen] if seen else []
    raise ModelError(
        f"Model {name} is not here with the digest that was asked for: expected digest {digest}, "
        f"found {' and '.join(found) or 'none'}. No other model was used.",
        hint="Import that very model (`dicomnode model import`), or have the series judged again: "
        "`dicomnode series retry`.",
    )


def copy_model(folder: Path, target: Path) -> str:
    """Copy a verified model directory, flushed and in one step; the digest of the copy, which was read back.

    What lay at ``target`` is replaced. Raises ModelError, and OSError as it comes.
    """
    expected = _parse_sums(_read(folder, SUMS_FILE), folder)
    growing, old = (target.with_name(f"{target.name}{word}{durable.TEMPORARY_SUFFIX}") for word in ("", ".old"))
    for left_over in (growing, old):  # of an import that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    durable.make_folder(target.parent.parent)
    durable.make_folder(target.parent)
    growing.mkdir(mode=0o750)
    try:
        for name in (*expected, SUMS_FILE):
            durable.write_file(growing / name, [_read(folder, name)])
        digest = verify(growing)
        if target.exists():
            target.rename(old)
        durable.rename_folder(growing, target)
    finally:
        for done_with in (growing, old):
            shutil.rmtree(done_with, ignore_errors=True)
    return digest


def _digest_at(place: str | Path) -> str | None:
    """The digest that a place states, without a look at the files behind it; None where no model is."""
    if place == Kind.CUBIC_DC:
        return CubicDc().digest
    folder = place if isinstance(place, Path) else shipped_models()[place]
    return ids.digest(_read(folder, SUMS_FILE)) if (folder / SUMS_FILE).is_file() else None


def find_verified(model: str | Path) -> VerifiedModel:
    """Card and weights of a shipped model or a folder, after its files were compared with their digests."""
    if isinstance(model, Path) or "/" in model:
        return _read_verified(Path(model))
    folder = shipped_models().get(model)
    if folder is None:
        known = ", ".join(model_names())
        raise ModelError(f"There is no model named {model}.", hint=f"Use one of {known}, or the path of a folder.")
    verified = _read_verified(folder)
    if verified.card.name != model:
        raise ModelError(f"The card in {folder} is that of {verified.card.name}.", hint=REINSTALL)
    return verified


def _read_verified(folder: Path) -> VerifiedModel:
    sums = _read(folder, SUMS_FILE)
    expected = _parse_sums(sums, folder)
    _refuse_unlisted(folder, expected)
    contents: dict[str, bytes] = {}
    for name, digest in expected.items():
        content = _read(folder, name)
        found = ids.digest(content)
        if found != digest:
            raise ModelError(
                f"{folder / name} is not the file that was sealed: expected sha256 {digest}, found {found}. "
                "The model was not loaded.",
                hint=REINSTALL,
            )
        if name in (CARD_FILE, WEIGHTS_FILE, ADVERSARIAL_FILE):
            contents[name] = content
    card = parse_card(contents[CARD_FILE], folder / CARD_FILE)
    if (card.sharpness is not None) != (ADVERSARIAL_FILE in contents):
        raise ModelError(
            f"The card in {folder} and the files beside it disagree: sharpness and {ADVERSARIAL_FILE} belong together.",
            hint=REINSTALL,
        )
    return VerifiedModel(
        card=card,
        digest=ids.digest(sums),
        weights=contents[WEIGHTS_FILE],
        adversarial_weights=contents.get(ADVERSARIAL_FILE, b""),
    )


def _parse_sums(sums: bytes, folder: Path) -> dict[str, str]:
    """Name → digest."""
    expected: dict[str, str] = {}
    for number, line in enumerate(sums.decode("ascii", errors="replace").splitlines(), 1):
        match = SUMS_LINE.fullmatch(line)
        if match is None or match["name"] in (*expected, SUMS_FILE):
            raise ModelError(
                f"{folder / SUMS_FILE}, line {number}, is not '<sha256>  <file name>', or names a file twice.",
                hint=REINSTALL,
            )
        expected[match["name"]] = match["sha256"]
    for name in (CARD_FILE, WEIGHTS_FILE, METRICS_FILE):
        if name not in expected:
            raise ModelError(f"{folder / SUMS_FILE} does not list {name}.", hint=REINSTALL)
    return expected


def _refuse_unlisted(folder: Path, expected: Mapping[str, str]) -> None:
    found = {path.name for path in folder.iterdir()} - {SUMS_FILE}
    unlisted = sorted(found - expected.keys())
    if unlisted:
        raise ModelError(
            f"{folder / unlisted[0]} is not listed in {SUMS_FILE}. The model was not loaded.",
            hint="Remove the file, or install the model again.",
        )


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_LIMIT_BYTES:
            raise ModelError(f"{path} is no file, or one of more than {FILE_LIMIT_BYTES >> 20} MiB.", hint=REINSTALL)
        return path.read_bytes()
    except OSError as exc:
        raise ModelError(
            f"{path} cannot be read: {exc.strerror}.", hint="Is this a model directory, and is it readable?"
        ) from exc
