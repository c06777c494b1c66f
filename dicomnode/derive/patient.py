"""Whose a derived series is by the word of the archive that it goes to (docs/decisions/0013).

In: the patient of a study as a peer states it, and a derived data set with what the source says. Out: the data set that
a job pins by its digest; the derived data set with that patient, and what it lost. An identity is taken over as a
whole: whatever else the source says of the patient is left out, because it was said of the patient whom it names.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from dicomnode.derive import explicit_vr
from dicomnode.derive.explicit_vr import tag_of
from dicomnode.errors import InputError
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.identity import IDENTITY_GROUPS
from dicomnode.imaging.spelling import canonical

KEYWORDS = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber")
"""The attributes that are taken over. The Accession Number names the order of that patient."""

OF_THE_OTHER = (
    "ReferencedPatientSequence", "IssuerOfAccessionNumberSequence", "RequestAttributesSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ReasonForVisit", "ReasonForVisitCodeSequence",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence", "PatientState",
)  # fmt: skip
"""Attributes outside groups 0010 and 0012 that belong to the patient, the visit or the order of the source."""

_TYPE_3 = ("IssuerOfPatientID",)  # left out rather than empty
_UTF_8 = "ISO_IR 192"
_DELIMITERS = {0x5C, 0x5E, 0x3D}  # PS3.5 section 6.1.2.5.3


def encode(patient: Mapping[str, str], study_uid: str) -> bytes:
    """The data set that a job pins. Raises InputError where a value is none that the standard allows."""
    content = Dataset()
    content.SpecificCharacterSet = _UTF_8
    content.StudyInstanceUID = study_uid
    for keyword in KEYWORDS:
        _refuse_malformed(keyword, patient[keyword])
        setattr(content, keyword, patient[keyword])
    content.set_original_encoding(False, True, convert_encodings(_UTF_8))
    return explicit_vr.written(content)


def decode(content: Dataset) -> dict[str, str]:
    """The patient of a data set that ``encode`` made."""
    return {keyword: str(content.get(keyword) or "") for keyword in KEYWORDS}


def refuse_unwritable(patient: Mapping[str, str], character_sets: Iterable[str]) -> None:
    """Raise InputError where a value has a letter that the character set of the series does not have."""
    written = list(character_sets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        encodings = convert_encodings(written or "ISO_IR 6")
        lost = [
            dictionary_description(keyword)
            for keyword, text in patient.items()
            if decode_bytes(encode_string(text, encodings), encodings, _DELIMITERS) != text
        ]
    if lost:
        raise InputError(
            f"{', '.join(lost)}, as the peer has it, cannot be written in the character set of the series "
            f"({', '.join(written) or 'ISO_IR 6'}); nothing was derived.",
            hint="Have the corrected series sent to the node under new UIDs.",
        )


def take(dataset: Dataset, patient: Mapping[str, str], source: InstanceHeader) -> Dataset:
    """Put the patient in the place of the source's; return the elements that are gone by that.

    An attribute of which the source says the same keeps the source's spelling.
    """
    gone = Dataset()
    gone.set_original_encoding(False, True)
    others = {tag_of(keyword) for keyword in (*OF_THE_OTHER, *KEYWORDS)}
    for tag in list(dataset.keys()):
        if tag.group not in IDENTITY_GROUPS and tag not in others:
            continue
        keyword = keyword_for_tag(tag)
        if keyword in patient and source.canonical(keyword) == canonical(dictionary_VR(keyword), patient[keyword]):
            continue
        if (element := dataset.get_item(tag)).value:
            gone[tag] = element
        del dataset[tag]
    for keyword in KEYWORDS:
        if keyword not in dataset and (patient[keyword] or keyword not in _TYPE_3):
            setattr(dataset, keyword, patient[keyword])
    return gone


def original_attributes(gone: Dataset, *, moment: datetime, system: str) -> Dataset:
    """The item of Original Attributes Sequence (PS3.3 section C.12.1): what the source said in the patient's place."""
    item = Dataset()
    item.set_original_encoding(False, True)
    item.SourceOfPreviousValues = ""  # type 2: the scanner's are in Contributing Equipment Sequence
    item.AttributeModificationDateTime = moment.strftime("%Y%m%d%H%M%S.%f%z")
    item.ModifyingSystem = system
    item.ReasonForTheAttributeModification = "COERCE"
    item.ModifiedAttributesSequence = [gone]
    return item


def _refuse_malformed(keyword: str, text: str) -> None:
    try:
        validate_value(dictionary_VR(keyword), text, config.RAISE)
        is_one = text.isprintable() and "\\" not in text
    except ValueError:
        is_one = False
    if not is_one:
        raise InputError(
            f"The peer has the study with a value of {dictionary_description(keyword)} that the standard does not "
            "allow; nothing was changed.",
            hint="Have it corrected at the peer.",
        )
