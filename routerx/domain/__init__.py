"""Canonical, frozen values that every layer above speaks. No I/O, no clock, no vendor names."""
