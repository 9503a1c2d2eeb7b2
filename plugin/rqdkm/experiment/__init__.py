"""Runs over data and the statistics of their results."""
