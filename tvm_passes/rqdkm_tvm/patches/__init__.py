"""Patch-based inference: the first layers of a network, run patch by patch so that their maps never exist whole."""
