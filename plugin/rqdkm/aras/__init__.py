"""ARAS on the host: its energy model, its constants, and simulations that drive the very C of the chip."""
