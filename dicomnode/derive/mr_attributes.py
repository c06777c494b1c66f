"""The attributes of a classic MR image that a derived one inherits from its source, and those it must not.

The two tables hold every attribute of the standard's modules for that object but those that ``derive`` makes anew.
Which and why: docs/derived-objects.md#attributes.
"""

from __future__ import annotations

from collections.abc import Mapping

# Copied when equal over all source slices (letter C). Otherwise type 3 is left out and type 2 is empty;
# a type 1 that differs never comes here (the verdict's SINGLE_VALUED). Groups 0010 and 0012 are copied whole.
COPIED: Mapping[str, tuple[str, ...]] = {
    "Patient C.7.1.1": ("ReferencedPatientSequence",),
    "General Study C.7.2.1": (
        "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
        "IssuerOfAccessionNumberSequence", "ReferringPhysicianName", "ReferringPhysicianIdentificationSequence",
        "ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence", "ProcedureCodeSequence",
        "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
        "PhysiciansReadingStudyIdentificationSequence", "ReferencedStudySequence", "RequestingService",
        "RequestingServiceCodeSequence", "ReasonForPerformedProcedureCodeSequence",
    ),
    "Patient Study C.7.2.2": (
        "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ReasonForVisit",
        "ReasonForVisitCodeSequence", "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID",
        "ServiceEpisodeDescription", "IssuerOfServiceEpisodeIDSequence", "PatientState",
    ),
    "General Series C.7.3.1": (
        "Modality", "BodyPartExamined", "PatientPosition", "ProtocolName", "RequestAttributesSequence",
        # exactly as it is, empty too: dropping an empty one made a new error on Philips
        # (docs/derived-objects.md#attributes)
        "Laterality",
    ),
    "Frame of Reference C.7.4.1": ("FrameOfReferenceUID", "PositionReferenceIndicator"),
    "General Equipment C.7.5.1": (
        "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
        "InstitutionalDepartmentTypeCodeSequence",
    ),
    "General Acquisition C.7.10.1": ("AcquisitionNumber", "AcquisitionDuration"),
    "General Image C.7.6.1": (
        "BurnedInAnnotation", "RecognizableVisualFeatures", "QualityControlImage", "AnatomicRegionSequence",
        "PrimaryAnatomicStructureSequence", "ImageLaterality",
    ),
    "Image Pixel C.7.6.3": (
        "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation",
    ),
    "Contrast/Bolus C.7.6.4": (
        "ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusAdministrationRouteSequence",
        "ContrastBolusRoute", "ContrastBolusVolume", "ContrastBolusStartTime", "ContrastBolusStopTime",
        "ContrastBolusTotalDose", "ContrastFlowRate", "ContrastFlowDuration", "ContrastBolusIngredient",
        "ContrastBolusIngredientConcentration",
    ),
    "MR Image C.8.3.1": (
        "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "AngioFlag",
        "RepetitionTime", "EchoTime", "InversionTime", "NumberOfAverages", "ImagingFrequency", "ImagedNucleus",
        "EchoNumbers", "MagneticFieldStrength", "NumberOfPhaseEncodingSteps", "EchoTrainLength", "PercentSampling",
        "PercentPhaseFieldOfView", "PixelBandwidth", "ReconstructionDiameter", "ReceiveCoilName", "TransmitCoilName",
        "AcquisitionMatrix", "InPlanePhaseEncodingDirection", "FlipAngle", "VariableFlipAngleFlag", "SAR", "dBdt",
        "B1rms", "ViewCodeSequence",
    ),
    "VOI LUT C.11.2": ("VOILUTFunction",),
    "SOP Common C.12.1": (
        "SpecificCharacterSet", "TimezoneOffsetFromUTC", "SyntheticData", "LongitudinalTemporalInformationModified",
    ),
}  # fmt: skip

# Empty rather than absent when the source slices differ: type 2 and 2C of the tables above.
TYPE_2 = frozenset(
    {
        "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientPosition",
        "PositionReferenceIndicator", "ContrastBolusAgent", "ScanOptions", "MRAcquisitionType", "RepetitionTime",
        "EchoTime", "InversionTime", "EchoTrainLength",
    }
)  # fmt: skip
PATIENT_TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")  # empty when the source has none

# Attributes of the standard's modules of a classic MR image that are left out on purpose (letter D). Nothing reads this
# table but the test that every attribute of those modules was decided on: a new edition of the standard shows there.
DROPPED: Mapping[str, tuple[str, ...]] = {
    "of the scanner's procedure step, which does not list this series": (
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepEndDate",
        "PerformedProcedureStepEndTime", "PerformedProcedureStepID", "PerformedProcedureStepDescription",
        "PerformedProtocolCodeSequence", "CommentsOnThePerformedProcedureStep",
        "ReferencedPerformedProcedureStepSequence", "PerformingPhysicianName",
        "PerformingPhysicianIdentificationSequence", "OperatorsName", "OperatorIdentificationSequence",
        "TreatmentSessionUID", "ReferencedDefinedProtocolSequence", "ReferencedPerformedProtocolSequence",
    ),
    "of the scanner, which did not make these instances": (
        "DeviceUID", "GantryID", "UDISequence", "ManufacturerDeviceClassUID", "SpatialResolution",
        "DateOfLastCalibration", "TimeOfLastCalibration", "DateOfManufacture", "DateOfInstallation",
    ),
    "of one source image": (
        "SeriesDescriptionCodeSequence", "RelatedSeriesSequence", "SmallestPixelValueInSeries",
        "LargestPixelValueInSeries", "SmallestImagePixelValue", "LargestImagePixelValue", "AcquisitionUID",
        "AcquisitionDateTime", "IrradiationEventUID",
        # Orthanc expects so many images, and calls the series incomplete (docs/derived-objects.md#attributes)
        "ImagesInAcquisition",
        "PatientOrientation", "RealWorldValueMappingSequence", "IconImageSequence", "PresentationLUTShape",
        "ReferencedImageSequence", "ReferencedInstanceSequence", "SourceInstanceSequence", "ReferencedSeriesSequence",
        "StudiesContainingOtherReferencedInstancesSequence", "VOILUTSequence", "WindowCenterWidthExplanation",
        "SliceProgressionDirection", "IsocenterPosition", "EquipmentFrameOfReferenceUID",
        "PatientTreatmentPreparationSequence", "PatientToEquipmentRelationshipSequence",
        "ImagingEquipmentToTreatmentDeliveryDeviceRelationshipSequence", "ReferencedRTPlanSequence",
        "PatientOrientationCodeSequence", "PatientEquipmentRelationshipCodeSequence", "PixelPaddingRangeLimit",
    ),
    "of time and the heart, which one value for the series cannot tell": (
        "TriggerTime", "NominalInterval", "BeatRejectionFlag", "LowRRValue", "HighRRValue", "IntervalsAcquired",
        "IntervalsRejected", "PVCRejection", "SkipBeats", "HeartRate", "CardiacNumberOfImages", "TriggerWindow",
        "TemporalPositionIdentifier", "NumberOfTemporalPositions", "TemporalResolution",
    ),
    "of other pixels than ours": (
        "PlanarConfiguration",
        "PixelAspectRatio",  # Hitachi's beside PixelSpacing is two dciodvfy errors (docs/derived-objects.md#attributes)
        "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
        "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
        "BluePaletteColorLookupTableData", "ICCProfile", "ColorSpace", "PixelDataProviderURL", "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths", "OverlayRows", "OverlayColumns", "OverlayDescription", "OverlayType",
        "OverlaySubtype", "OverlayOrigin", "OverlayBitsAllocated", "OverlayBitPosition", "ROIArea", "ROIMean",
        "ROIStandardDeviation", "OverlayLabel", "OverlayData",
    ),
    "of devices and specimens in the picture": (
        "DeviceSequence", "ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence",
        "AlternateContainerIdentifierSequence", "ContainerTypeCodeSequence", "ContainerDescription",
        "ContainerComponentSequence", "SpecimenDescriptionSequence",
    ),
    "of the life of the source object": (
        "InstanceCreatorUID", "InstanceCoercionDateTime", "RelatedGeneralSOPClassUID",
        "OriginalSpecializedSOPClassUID", "QueryRetrieveView", "CodingSchemeIdentificationSequence",
        "ContextGroupIdentificationSequence", "MappingResourceIdentificationSequence",
        "PrivateDataElementCharacteristicsSequence", "ConversionSourceAttributesSequence",
        "HL7StructuredDocumentReferenceSequence", "SOPInstanceStatus", "SOPAuthorizationDateTime",
        "SOPAuthorizationComment", "AuthorizationEquipmentCertificationNumber", "EncryptedAttributesSequence",
        "OriginalAttributesSequence", "InstanceOriginStatus", "BarcodeValue", "MACParametersSequence",
        "DigitalSignaturesSequence",
    ),
}  # fmt: skip
