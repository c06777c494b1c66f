"""dicomnode: a DICOM node that turns thick-slice MR series into derived thin-slice series."""

__version__ = "0.1.0"
