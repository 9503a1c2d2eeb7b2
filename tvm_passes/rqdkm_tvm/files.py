"""Writing files so that nothing is ever left half-written: write aside, then rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rqdkm_tvm.errors import RqdkmError

MARKER = ".rqdkm"  # a directory that holds this file was written by us and may be replaced by us


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` through a temporary sibling and a rename.

    Raises:
        RqdkmError: the file cannot be written (no space, no permission, parent missing).
    """
    write_together({Path(path): data})


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Write files that belong together: all of them aside first, then the renames, in the order given.

    Raises:
        RqdkmError: one of them cannot be written; the old ones are as they were then.
    """
    staged: list[tuple[str, Path]] = []
    path = Path()
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            staged.append((temporary, path))
            with os.fdopen(handle, "wb") as stream:
                stream.write(data.encode() if isinstance(data, str) else data)
            os.chmod(temporary, 0o644)
        for temporary, path in staged:
            os.replace(temporary, path)
    except OSError as error:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise _explain(error, path) from error


@contextlib.contextmanager
def staged_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty sibling directory that becomes ``path`` when the block succeeds and vanishes when it fails.

    An existing ``path`` is replaced only if we wrote it (it holds :data:`MARKER`), is empty, or ``replace`` is set;
    it stays untouched until the new one is complete.

    Raises:
        RqdkmError: ``path`` exists and is not ours, or the disk refuses.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not replace:
        if not path.is_dir():
            raise RqdkmError("the output path is a file", where=str(path), hint="choose another -o/--out")
        if any(path.iterdir()) and not (path / MARKER).exists():
            raise RqdkmError(
                "the output directory exists and was not written by rqdkm",
                where=str(path),
                hint="choose another -o/--out, or pass --force to replace it",
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _explain(error, path) from error
    try:
        yield staging
        (staging / MARKER).write_text("written by rqdkm; replaced as a whole by the next run\n")
        os.chmod(staging, 0o755)
        _swap(staging, path)
    except OSError as error:
        if error.filename is None or str(staging) in str(error.filename) or str(path) in str(error.filename):
            raise _explain(error, path) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, path: Path) -> None:
    """Put ``staging`` in the place of ``path``; the old content survives a failure."""
    if not path.exists():
        os.rename(staging, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent)) / "old"
    try:
        os.rename(path, old)
        try:
            os.rename(staging, path)
        except OSError:
            os.rename(old, path)
            raise
    finally:
        if path.exists():
            shutil.rmtree(old.parent, ignore_errors=True)


def _explain(error: OSError, path: Path) -> RqdkmError:
    reason = _reason(error)
    hint = {
        "No space left on device": "free some disk space and run again; nothing was left behind",
        "Permission denied": "choose a directory you may write to with -o/--out",
        "Read-only file system": "choose a directory you may write to with -o/--out",
    }.get(reason, "check the path and run again")
    return RqdkmError(f"cannot write: {reason}", where=str(path), hint=hint)


def _reason(error: OSError) -> str:
    """The system's words; of the many errors that copying a tree collects, the first."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1]).partition("] ")[2].partition(":")[0] or str(error.args[0][0][-1])
    return error.strerror or str(error)
