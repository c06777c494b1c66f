"""Blinded readers: a page that shows them panels, and what their answers say."""
