"""The reading of a series: headers, geometry, verdict, slice profile, metrics, pictures."""
