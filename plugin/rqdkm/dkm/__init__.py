"""Dynamic kernel morphing: what decides on the chip which kernel runs, and how it is trained."""
