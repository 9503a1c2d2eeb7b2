"""The patch stage as a kernel: its configurations are sizes of the arena in which patches are computed."""

from __future__ import annotations

from functools import lru_cache

from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.kernels.registry import Config, Kernel, register
from rqdkm_tvm.layer import KernelCall, Layer
from rqdkm_tvm.patches.choose import Chooser, Chosen
from rqdkm_tvm.patches.emit import NAME, Emitter
from rqdkm_tvm.patches.program import Patches

ARENA = "arena"  # key of a configuration: bytes of kept rows, buffers and scratch


@register
class PatchStage(Kernel):
    """Generated C around the kernels of the layers."""

    name = NAME
    ops = ("patch_stage",)

    def reject(self, layer: Layer) -> str | None:
        for key, options in _chooser(ByIdentity(layer)).options.items():
            if not options:
                return f'no kernel runs a part of "{_chooser(ByIdentity(layer)).problems[key].name}"'
        return None

    def configs(self, layer: Layer) -> list[Config]:
        return list(_configurations(ByIdentity(layer)))

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return _chosen(layer, config).arena_bytes

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return _chosen(layer, config).cycles

    def constant_bytes(self, layer: Layer, config: Config) -> int:
        return _chosen(layer, config).constant_bytes

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        return Emitter(_chooser(ByIdentity(layer)), _chosen(layer, config)).call(config)


def slow_layers(layer: Layer, config: Config) -> tuple[str, ...]:
    """Layers of a stage, by name, of which a part runs on a reference kernel because none of the fast ones fits."""
    return _chosen(layer, config).slow


@lru_cache(maxsize=64)
def _chooser(key: ByIdentity) -> Chooser:
    assert key.layer.stage is not None
    return Chooser(Patches(key.layer.stage), key.layer.stage.kernel_set)


@lru_cache(maxsize=512)
def _choose(key: ByIdentity, arena: int) -> Chosen:
    return _chooser(key).choose(arena)


def _chosen(layer: Layer, config: Config) -> Chosen:
    return _choose(ByIdentity(layer), int(config[ARENA]))


@lru_cache(maxsize=64)
def _configurations(key: ByIdentity) -> tuple[Config, ...]:
    """The sizes that none beats in bytes and cycles, fastest first."""
    found = [(arena, _choose(key, arena)) for arena in _chooser(key).arenas()]
    found.sort(key=lambda item: (item[1].cycles, item[1].arena_bytes))
    kept: list[tuple[int, Chosen]] = []
    for arena, chosen in found:
        if not kept or chosen.arena_bytes < kept[-1][1].arena_bytes:
            kept.append((arena, chosen))
    return tuple({ARENA: arena} for arena, _ in kept)
