"""What a series is: headers, geometry, verdict, slice profile, metrics, pictures."""
