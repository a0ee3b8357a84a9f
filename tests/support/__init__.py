"""Test doubles shared by all suites: a clock moved by hand and an upstream that does what a script says."""
