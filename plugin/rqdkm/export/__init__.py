"""From a compiled model to C sources, a project directory and an ELF file."""
