"""Repair without training, and the file of parameters it writes."""
