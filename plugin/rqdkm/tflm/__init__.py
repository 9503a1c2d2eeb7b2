"""Models for TensorFlow Lite Micro with rqdkm's operators: the file, the code of its layers, their registration."""
