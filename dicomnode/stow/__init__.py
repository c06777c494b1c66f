"""DICOMweb (PS3.18): requests to an HTTP server that stores instances and says what it has."""
