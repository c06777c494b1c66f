"""Both ends of a DICOM association: PDUs and messages, the connection that carries them, the negotiation."""
