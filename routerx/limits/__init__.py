"""Admission limits: what may start now. In memory; the protocol leaves room for a shared store."""
