"""Vendors and their models as data: presets, quirks, the catalogue. The only place where vendor names stand."""
