"""Loads models in the wheel's interpreter, one after the other, and says which it took: ``FOLDER PLUGIN``.

A marker on stderr in front of each, so that the interpreter's log can be told apart.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rqdkm.models.oracle_worker import load_plugin

MARK = "--- model "


def main(folder: Path, plugin: str) -> None:
    names = load_plugin(plugin)
    from tflite_micro import runtime

    for model in sorted(folder.glob("*.tflite"), key=lambda path: int(path.stem)):
        os.write(2, f"{MARK}{model.stem}\n".encode())
        try:
            runtime.Interpreter.from_file(str(model), custom_op_registerers=names, arena_size=1 << 16)
        except RuntimeError:
            os.write(2, b"refused\n")
        else:
            os.write(2, b"taken\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
