"""Models and data: loading, quantizing, describing."""
