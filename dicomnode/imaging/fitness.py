"""Tell whether one MR image is fit for a stack at all, before it is compared with others."""

from __future__ import annotations

from itertools import chain

from pydicom.tag import Tag

from dicomnode.imaging.geometry import is_orthonormal
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.representation import Misfit, copy_of
from dicomnode.imaging.words import attribute_name

# Always lossy, and JPEG 2000 that may be: a header that forgot to say so is not believed (PS3.5 §10).
LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.93", "1.2.840.10008.1.2.4.203",
    }
)  # fmt: skip

PIXEL_FORMAT = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip
# Attributes whose value goes into the result as it stands, or decides how pixels are read: read one way by a receiver
# that has the dictionary and another way by one that goes by what is written, they could name another patient or other
# pixels.
_EXACT = (
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ScanningSequence", "SequenceVariant", *PIXEL_FORMAT,
)  # fmt: skip
# Attributes whose values may keep an image out of a stack: one that cannot be read keeps it out as well.
_TELLING = (
    "ImageType", "LossyImageCompression", "BurnedInAnnotation", "ComplexImageComponent", "EchoNumbers",
    "DiffusionBValue",
)  # fmt: skip
_NEEDED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", *PIXEL_FORMAT, "PixelSpacing")


def fault_of(header: InstanceHeader) -> str | None:
    """Say what keeps one MR image out of any stack; None: nothing (docs/derived-objects.md#pixels-of-the-source)."""
    exact = (keyword for keyword in _EXACT if isinstance(copy_of(header.dataset, Tag(keyword)), Misfit))
    telling = (keyword for keyword in _TELLING if header.is_unreadable(keyword))
    for keyword in chain(header.malformed, exact, telling):
        return f"its {attribute_name(keyword)} cannot be read"
    for keyword in _NEEDED:
        if not header.text(keyword):
            return f"it has no {attribute_name(keyword)}"
    faults = (
        (header.samples_per_pixel != 1, "it is a colour image"),
        (header.photometric != "MONOCHROME2", "its grey scale is inverted or coloured (not MONOCHROME2)"),
        (header.bits_allocated not in (8, 16), f"it has {header.bits_allocated} bits per pixel"),
        (not 1 <= (header.bits_stored or 0) <= (header.bits_allocated or 0), "its Bits Stored do not fit"),
        (header.high_bit != (header.bits_stored or 0) - 1, "its pixels are not in the low bits of their words"),
        (header.pixel_representation not in (0, 1), "its Pixel Representation is neither 0 nor 1"),
        (min(header.rows or 0, header.columns or 0) < 1, "it has no pixels"),
        (min(header.pixel_spacing_mm or (0.0,)) <= 0, "its Pixel Spacing is not positive"),
        ((header.number_of_frames or 1) > 1, "it has more than one frame"),
        (header.rescale_slope is not None and header.rescale_slope <= 0, "its Rescale Slope is not positive"),
        (header.has("ModalityLUTSequence"), "it has a Modality LUT"),
        (header.text("BurnedInAnnotation").upper() == "YES", "text is burned into it"),
        (header.orientation is not None and not is_orthonormal(header.orientation), "its axes are not at right angles"),
    )
    return next((sentence for wrong, sentence in faults if wrong), None)


def is_lossy(header: InstanceHeader) -> bool:
    """Was this image ever compressed with loss? The attribute decides, whatever the syntax now is (C.7.6.1.1.5)."""
    stated = header.text("LossyImageCompression")
    return stated == "01" or (stated != "00" and header.transfer_syntax_uid in LOSSY_SYNTAXES)
