"""``policy.json``: a trained policy, the kernels that it chooses among, and what they cost when it was made."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from rqdkm.dkm.policy import Policy
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic

SCHEMA, VERSION = "rqdkm.policy", 2
_HINT = "give the file that rqdkm dkm train wrote"


@dataclass(frozen=True)
class PolicyFile:
    """
    Args:
        names: of the kernels, as :func:`rqdkm.export.metadata.kernels` finds them in a project.
        safe: the kernel that slack is reckoned with, and that runs where there is no answer.
        cycles: of an undisturbed frame, by kernel.
        policy: what the chip decides by.
    """

    names: tuple[str, ...]
    safe: int
    cycles: tuple[int, ...]
    policy: Policy

    def save(self, path: Path) -> None:
        """Written aside, then renamed."""
        content = {
            "schema": SCHEMA,
            "version": VERSION,
            "kernels": [{"name": name, "cycles": n} for name, n in zip(self.names, self.cycles, strict=True)],
            "safe": self.safe,
            "blob": base64.b64encode(self.policy.to_bytes()).decode(),
        }
        write_atomic(path, json.dumps(content, indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> PolicyFile:
        """
        Raises:
            DataError: no such file, or it holds something else.
        """
        where = str(path)
        try:
            content = json.loads(path.read_text())
            if content["schema"] != SCHEMA or content["version"] != VERSION:
                raise DataError(
                    f"it is no policy of a version that is known, which is {VERSION}",
                    where=where,
                    hint="train it anew with rqdkm dkm train (version 1 knew another slack)",
                )
            names = tuple(str(kernel["name"]) for kernel in content["kernels"])
            cycles = tuple(int(kernel["cycles"]) for kernel in content["kernels"])
            safe, blob = int(content["safe"]), base64.b64decode(content["blob"], validate=True)
        except OSError as error:
            raise DataError(f"cannot read the policy: {error.strerror}", where=where, hint=_HINT) from error
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise DataError(
                "it is no policy, or a part of it is missing or damaged", where=where, hint=_HINT
            ) from error
        policy = Policy.from_bytes(blob, where=where)
        if policy.kernels != len(names):
            raise DataError(f"it names {len(names)} kernels and selects {policy.kernels}", where=where, hint=_HINT)
        if not 0 <= safe < len(names) or any(not 0 < n < 1 << 32 for n in cycles):
            raise DataError("its safe kernel or its cycles are out of range", where=where, hint=_HINT)
        return PolicyFile(names, safe, cycles, policy)
