"""Training with TensorFlow, always in a process of its own."""
