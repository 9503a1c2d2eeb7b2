"""Silence for native libraries that write to the process's streams past Python."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def native_silence(*descriptors: int) -> Iterator[None]:
    """Discard what C and C++ code writes to file descriptors (1 stdout, 2 stderr) meanwhile.

    For calls whose chatter would end up among results, and which report failures by exceptions or return values.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(descriptor, os.dup(descriptor)) for descriptor in descriptors]
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in descriptors:
            os.dup2(sink, descriptor)
        yield
    finally:
        os.close(sink)
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
