"""The one exception family of the project.

Every error a user can cause or meet is an :class:`RqdkmError`; the command line prints it as one message
and exits with ``exit_code`` (2). Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations


class RqdkmError(Exception):
    """One clear error: what went wrong, where, and what to do about it.

    Args:
        what: the problem, one sentence, no traceback.
        where: the file, layer, option or tool concerned (may be empty).
        hint: what the user can do next (may be empty).
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.hint}" if self.hint else text


class ModelError(RqdkmError):
    """The model file is missing, corrupt, truncated, or holds something that cannot be imported."""


class UnsupportedOperatorError(ModelError):
    """An operator neither our kernels nor TVM can compile; ``where`` names operator and layer."""


class DataError(RqdkmError):
    """Calibration or evaluation data has the wrong shape, type, count, or holds NaN/Inf."""


class BudgetError(RqdkmError):
    """A flash or RAM budget that cannot hold; the message says how much is needed and by which layer.

    Args:
        needed_bytes: the least that would do, 0 if unknown.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "", needed_bytes: int = 0) -> None:
        super().__init__(what, where=where, hint=hint)
        self.needed_bytes = needed_bytes


class FlashBudgetError(BudgetError):
    """The smallest constants exceed the flash budget; ``needed_bytes`` are theirs alone."""


class RamBudgetError(BudgetError):
    """Tensors and scratch exceed the RAM left for them; ``needed_bytes`` are theirs alone."""


class PlanError(RqdkmError):
    """A plan.json that does not fit the model or its own schema."""


class ToolError(RqdkmError):
    """A tool is missing or failed (compiler, emulator, debugger); the hint says how to get it."""


class BoardError(RqdkmError):
    """The board did not answer, answered wrongly, or reported a fault."""
