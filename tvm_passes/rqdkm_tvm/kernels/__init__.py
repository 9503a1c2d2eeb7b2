"""The kernels on the Python side: what each C kernel accepts, needs and how its constants are packed."""
