"""Draw docs/anatomies-*.png: five anatomies, as received, interpolated, and by the default model, side by side.

``python docs/make_anatomies.py STUDIES [MODEL]``: the volumes are rows of ``trainer/data/open_data.toml`` that no
shipped model was trained on. Where a volume has thin slices of its own, thick ones are averaged from them and the last
panel is the truth; the other series were scanned in thick slices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.generators import model_dir
from dicomnode.generators.base import Generator, thin_volume
from dicomnode.imaging.picture import Cut, Panel, draw_panels, png_bytes
from dicomnode.imaging.profile import choose_ratio, thin_grid
from dicomnode.imaging.volume import Volume
from trainer.data.inventory import read_inventory
from trainer.data.volumes import volume_of
from trainer.judging.cases import is_thin, prepare

FloatArray = NDArray[np.float32]

DOCS = Path(__file__).parent
INVENTORY = DOCS.parent / "trainer" / "data" / "open_data.toml"
MODEL = "thin"
SHARPNESSES = (0.0, 0.35)
RATIO = 4  # of volumes that have thin slices of their own
SHOWN = {
    "mr_gd_t1c": ("brain", Cut.ROW),
    "sct_cspine_t2": ("cervical-spine", Cut.ROW),
    "lumbar_t2_sag": ("lumbar-spine", Cut.ROW),
    "prostatex_t2_tra": ("prostate", Cut.ROW),
    "heart_lge_tra": ("heart", Cut.ROW),
}  # of each label: what it shows, and the cut


def main(studies: Path, model: str) -> None:
    """Draw each picture beside this file."""
    found = {source.label: source for source in read_inventory(INVENTORY, (studies,))}
    generator = model_dir.load_generator(model)
    for label, (anatomy, cut) in SHOWN.items():
        volume = volume_of(found[label])
        if is_thin(volume):
            case = prepare(found[label], volume, plane=0, ratio=RATIO)
            thick, ratio, truth, place = case.thick_volume(), RATIO, case.truth, case.placed
        else:
            ratio = choose_ratio(volume.slice_spacing_mm, min(volume.row_spacing_mm, volume.column_spacing_mm)) or RATIO
            thick, truth = volume, None
            place = partial(_of_the_same_grid, thick)
        footer = f"{label}, {thick.slice_spacing_mm:.1f} mm between slices, {ratio} for each."
        picture = draw_panels(list(_panels(generator, thick, ratio, truth, place)), cut=cut, footer=footer)
        file = DOCS / f"anatomies-{anatomy}.png"
        file.write_bytes(png_bytes(picture))


def _panels(
    generator: Generator, thick: Volume, ratio: int, truth: FloatArray | None, place: Callable[[FloatArray], Volume]
) -> Iterator[Panel]:
    grid = thin_grid(thick, ratio)
    source = "scanned" if truth is None else "averaged from thin slices"
    yield Panel(title="as received", volume=place(thick.voxels), caption=source, shows_slices=True)
    interpolated = model_dir.load_generator("cubic-dc").generate(thick, grid, device="cpu").thin
    yield Panel(title="interpolated", volume=place(interpolated.voxels), caption="cubic-dc")
    for sharpness in SHARPNESSES:
        thin = generator.at(sharpness).generate(thick, grid, device="cpu").thin
        yield Panel(title=f"derived, sharpness {sharpness:g}", volume=place(thin.voxels), caption=generator.name)
    if truth is not None:
        yield Panel(title="truth", volume=place(truth), caption="its own thin slices")


def _of_the_same_grid(thick: Volume, voxels: FloatArray) -> Volume:
    """Slices that tile the extent of a thick stack, placed in the patient."""
    return thin_volume(voxels, thick, thin_grid(thick, len(voxels) // len(thick.voxels)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else MODEL)
