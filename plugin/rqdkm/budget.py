"""Flash and RAM budgets: what a firmware may take, and errors that say what it would need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rqdkm.board.describe import STM32F407
from rqdkm_tvm.errors import BudgetError, FlashBudgetError, RamBudgetError

if TYPE_CHECKING:
    from rqdkm.export.size import Size
    from rqdkm.planning import Limits
    from rqdkm_tvm.compile import CompiledModel

# Stack and static data of the firmware around the model, before the linker has told: refined after the first link.
_FIRST_GUESS = 4096 + 1536
# Start-up, I/O and the smallest set of kernels: what no firmware does without.
LEAST_CODE = 16 * 1024
_LINKS = 3  # attempts to meet a flash budget


class Ram:
    """The arena's share of a RAM budget that also has to hold stack and static data.

    Args:
        total: bytes for everything, None: all the SRAM of the chip. No more than that is ever used.
    """

    def __init__(self, total: int | None) -> None:
        self.explicit = total is not None
        sram = STM32F407.memory("sram").bytes
        self.total = sram if total is None else min(total, sram)
        self.overhead = _FIRST_GUESS
        self._linked = False

    @property
    def arena(self) -> int | None:
        """Bytes left for the arena; None without a budget of the user's, as long as the chip holds the model."""
        return max(self.total - self.overhead, 0) if self.explicit else None

    @property
    def room(self) -> int:
        """Bytes left for the arena, with or without a budget of the user's."""
        return max(self.total - self.overhead, 0)

    def may_hold(self, compiled: CompiledModel) -> bool:
        """Whether the arena leaves room for what is around it; if not, the next one is made for the room there is."""
        if self.explicit or compiled.memory.arena_bytes + self.overhead <= self.total:
            return True
        self.explicit = True
        return False

    def holds(self, sizes: Size) -> bool:
        """Whether the linked image fits; if not, the next arena is computed from its real overhead.

        Raises:
            BudgetError: it did not fit although the overhead was known.
        """
        used = sizes.ram_bytes
        if used <= self.total:
            return True
        self.overhead = sizes.static_bytes + sizes.stack_bytes
        if self._linked:
            raise BudgetError(
                f"the firmware takes {used:,} bytes of RAM, the budget is {self.total:,}",
                where="--ram" if self.explicit else "RAM",
                hint=f"raise it to {used:,} bytes or more",
            )
        self._linked = self.explicit = True
        return False


class Flash:
    """The constants' share of a flash budget that also has to hold code.

    Args:
        total: bytes for everything, None: all the flash of the chip, constants in proportion to what they save.
    """

    def __init__(self, total: int | None) -> None:
        self.explicit = total is not None
        self.total = STM32F407.memory("flash").bytes if total is None else total
        self.code = LEAST_CODE  # refined after each link: which code is linked depends on the kernels chosen
        self.links = 0
        self._least = 0

    @property
    def constants(self) -> int | None:
        """Bytes left for constants; None without a budget of the user's."""
        return max(self.total - self.code, self._least) if self.explicit else None

    def holds(self, sizes: Size, compiled: CompiledModel) -> bool:
        """Whether the linked image fits; if not, the next choice is made for the code it really has."""
        if sizes.flash_bytes <= self.total:
            return True
        self.explicit = True
        self.code = max(self.code, sizes.flash_bytes - _constants(compiled))
        self.links += 1
        return self.links > _LINKS or self._least > 0  # check_flash then says what is missing

    def takes_least(self, needed: int) -> bool:
        """Whether to try with the smallest constants, ``needed`` bytes: another choice may need less code, too."""
        if self.links == 0 or self._least:
            return False
        self._least = needed
        return True


def limits(max_drop: float, flash_bytes: int | None, ram_bytes: int | None, cycles: int | None) -> Limits:
    """Budgets of the whole firmware as the bit-width search takes them: flash as it is, RAM of the arena."""
    from rqdkm.planning import Limits

    return Limits(max_drop, flash_bytes, Ram(ram_bytes).arena, cycles)


def _constants(compiled: CompiledModel) -> int:
    return sum(layer.lowered.constant_bytes for layer in compiled.layers)


@contextmanager
def explained(allowance: Ram, otherwise: str = "use a smaller input or model") -> Iterator[None]:
    """Turn the arena's budget error into one about the RAM the user named.

    Args:
        otherwise: what helps besides more RAM.
    """
    try:
        yield
    except RamBudgetError as error:
        needed = error.needed_bytes + allowance.overhead
        fits = needed <= STM32F407.memory("sram").bytes
        raise BudgetError(
            f"the firmware needs at least {needed:,} bytes of RAM ({error.needed_bytes:,} of working memory, "
            f"{allowance.overhead:,} of stack and static data); the budget is {allowance.total:,}",
            where=error.where,
            hint=f"pass --ram {needed} or more, or {otherwise}"
            if fits
            else f"more than the chip's SRAM holds: {otherwise}",
            needed_bytes=needed,
        ) from error


def flash_error(error: FlashBudgetError, flash: Flash, *otherwise: str) -> BudgetError:
    """The compiler's error about constants as one about the flash the user named.

    Args:
        otherwise: what helps besides more flash and a smaller model.
    """
    needed = error.needed_bytes + flash.code
    return BudgetError(
        f"the firmware needs at least {needed:,} bytes of flash ({error.needed_bytes:,} of constants, about "
        f"{flash.code:,} of code); the budget is {flash.total:,}",
        where=error.where,
        hint=", or ".join([f"pass --flash {needed} or more", *otherwise, "use a smaller model"]),
        needed_bytes=needed,
    )


def check_weights(compiled: CompiledModel, flash_bytes: int | None) -> None:
    """Refuse before linking what cannot fit the flash by its constants alone.

    Raises:
        BudgetError: naming the layer with the most constants.
    """
    _check(compiled, _constants(compiled), "constants alone; code comes on top", flash_bytes, room=LEAST_CODE)


def check_flash(sizes: Size, compiled: CompiledModel, flash_bytes: int | None) -> None:
    """Compare the linked image with the flash budget."""
    _check(compiled, sizes.flash_bytes, "code and constants", flash_bytes)


def _check(compiled: CompiledModel, used: int, what: str, flash_bytes: int | None, room: int = 0) -> None:
    limit = STM32F407.memory("flash").bytes if flash_bytes is None else flash_bytes
    if used <= limit:
        return
    largest = max(compiled.layers, key=lambda layer: layer.lowered.constant_bytes)
    raise BudgetError(
        f"the firmware needs {used:,} bytes of flash ({what}), the budget is {limit:,}",
        where=f'layer "{largest.name}" is the largest: {largest.lowered.constant_bytes:,} bytes of constants',
        hint=f"pass --flash {used + room} or more, or use a smaller model",
        needed_bytes=used,
    )
