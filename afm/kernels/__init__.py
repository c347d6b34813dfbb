"""Implementations of :mod:`afm.attention` for particular machines."""
