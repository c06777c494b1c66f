"""Studies in, series, pairs and what betrays a leak out; decodes nothing before it must."""
