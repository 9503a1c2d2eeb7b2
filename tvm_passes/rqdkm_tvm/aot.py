"""relay.build to ahead-of-time C, memory planned by USMP, and everything TVM knows about the result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm import in_place, memory
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError
from rqdkm_tvm.graph import RESHAPES, calls, op_name, outputs, source_name
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.operators import is_layer_call
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
MODULE = "rqdkm"  # TVM's prefix of generated symbols: tvmgen_rqdkm_...
POOL = "arena"


@dataclass(frozen=True)
class Placement:
    """Where an input or output lies: byte offset in the arena, None for a buffer of its own."""

    symbol: str
    offset: int | None


@dataclass(frozen=True)
class Aot:
    """C that TVM generated. ``sources`` are complete files; ``header`` is the ``tvmgen_rqdkm.h`` they include."""

    sources: dict[str, str]
    header: str
    arena_bytes: int
    inputs: tuple[Placement, ...]
    outputs: tuple[Placement, ...]

    @property
    def io_in_arena(self) -> bool:
        return all(p.offset is not None for p in (*self.inputs, *self.outputs))


def build(mod: Any, *, io_in_arena: bool = True) -> Aot:
    """Compile a lowered module (types inferred) to C with one memory pool.

    The pool holds input and output too where there is one of each, unless ``io_in_arena`` forbids it.

    Raises:
        UnsupportedOperatorError: TVM cannot compile an operator that is left to it.
        ModelError: TVM fails for another reason.
    """
    mod = _with_plain_names(mod)
    try:
        generated = _generate(mod, io_in_arena)
    except Exception as error:  # TVM's Python code raises anything
        raise _explained(mod, _last_line(error)) from error
    foreign = _foreign_call(generated)
    if foreign is not None:
        raise _explained(mod, foreign)
    return generated


def _generate(mod: Any, io_in_arena: bool = True) -> Aot:
    if io_in_arena and _io_may_share_the_arena(mod["main"]):
        try:
            return _collect(_build(mod, workspace_io=True))
        except tvm.TVMError as error:
            # TVM takes a tensor for an output only if nothing loads from it: not where a sum is built up in place
            if "IO Buffer var" not in str(error) and "output buffer vars" not in str(error):
                raise
    return _collect(_build(mod, workspace_io=False))


def _io_may_share_the_arena(function: Expr) -> bool:
    """Whether TVM's memory planner sees the true life of inputs and outputs.

    It lets an input live from its first reader (not from the start) and an output until its last access (not to the
    end). That is the same thing only for one input that the first operator reads and one output.
    """
    if len(function.params) != 1 or isinstance(function.body, relay.Tuple):
        return False
    for call in calls(function):
        if op_name(call) in RESHAPES:
            continue
        return any(root.same_as(function.params[0]) for root in map(_without_reshapes, call.args))
    return False


def _without_reshapes(expr: Expr) -> Expr:
    while op_name(expr) in RESHAPES:
        expr = expr.args[0]
    return expr


def _foreign_call(generated: Aot) -> str | None:
    """What generated C needs of TVM's runtime; there is none on the chip."""
    for text in generated.sources.values():
        found = re.search(r"\bTVM(?:FuncCall|Backend\w+|ArrayAlloc\w*)\s*\(", text)
        if found:
            return f"its C calls TVM's runtime ({found[0].rstrip('( ')})"
    return None


def _target() -> Any:
    # not -keys=arm_cpu: its schedules for Cortex-M need microTVM's own library
    return tvm.target.Target("c -keys=cpu")


def _build(mod: Any, *, workspace_io: bool) -> Any:
    target = _target()
    target = tvm.target.Target(target, host=target)
    pools = tvm.ir.memory_pools
    arena = pools.WorkspacePoolInfo(POOL, [target], pools.PoolInfoProperties())
    config = {
        "tir.disable_vectorize": True,
        "tir.usmp.enable": True,
        "tir.usmp.custom_algorithm": "rqdkm",
        "tir.usmp.use_workspace_io": workspace_io,
    }
    executor = relay.backend.Executor(
        "aot",
        {"interface-api": "c", "unpacked-api": True, "workspace-byte-alignment": memory.ALIGNMENT},
    )
    sharing = memory.sharing()
    with sharing as shared, tvm.transform.PassContext(opt_level=3, config=config, instruments=[_planning(mod, shared)]):
        return relay.build(
            mod,
            target=target,
            executor=executor,
            runtime=relay.backend.Runtime("crt"),
            mod_name=MODULE,
            workspace_memory_pools=pools.WorkspaceMemoryPools([arena]),
        )


def _planning(mod: Any, shared: dict[str, str]) -> Any:
    """A pass instrument that tells the memory planner, before it starts, which buffers share their place."""
    operands = in_place.shared_operands(mod["main"])

    @tvm.instrument.pass_instrument
    class Planning:
        def run_before_pass(self, tir: Any, info: Any) -> None:
            if operands and str(info.name) == "tir.usmp.AssignPoolInfo":
                shared.update(in_place.shared_buffers(tir, operands))

    return Planning()


def _with_plain_names(mod: Any) -> Any:
    """Inputs become input0, input1, ...: model names need not be C identifiers."""
    function = mod["main"]
    renamed = [
        relay.var(f"input{i}", shape=shape_of(v), dtype=str(v.checked_type.dtype))
        for i, v in enumerate(function.params)
    ]
    body = relay.bind(function.body, dict(zip(function.params, renamed, strict=True)))
    names = [f"output{i}" for i in range(len(outputs(function)))]
    plain = relay.Function(renamed, body).with_attr("output_tensor_names", names)
    return relay.transform.InferType()(tvm.IRModule({"main": plain}))


def _modules(module: Any) -> list[Any]:
    return [module] + [inner for imported in module.imported_modules for inner in _modules(imported)]


def _collect(factory: Any) -> Aot:
    metadata = factory.executor_codegen_metadata
    ins = [_field(str(v.name)) for v in metadata.inputs]
    outs = [_field(str(v)) for v in metadata.outputs]
    sources = [_reproducible(text) for m in _modules(factory.lib) if (text := str(m.get_source())).strip()]
    offsets: dict[str, int] = {}
    for text in sources:
        found = re.findall(rf"\.(\w+) = &\(\(uint8_t\*\)workspace_pools->{POOL}\)\[(\d+)\]", text)
        offsets.update((name, int(offset)) for name, offset in found)
    arena = sum(int(p.allocated_size) for p in (metadata.pool_inputs or {}).values())
    has_pool = any("workspace_pools" in text for text in sources)
    return Aot(
        sources={f"tvm_{index}.c": text for index, text in enumerate(sources)},
        header=_header(ins, outs, io_in_arena=bool(offsets), has_pool=has_pool),
        arena_bytes=arena,
        inputs=tuple(Placement(name, offsets.get(name)) for name in ins),
        outputs=tuple(Placement(name, offsets.get(name)) for name in outs),
    )


def _reproducible(text: str) -> str:
    """TVM declares arena pointers in the order of its objects' addresses: sort each run of such lines."""
    declaration = re.compile(r"(?:^  void\* \w+_let = \(&\(\w+\[\d+\]\)\);\n)+", re.MULTILINE)
    return declaration.sub(lambda run: "".join(sorted(run[0].splitlines(keepends=True))), text)


def _field(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _header(ins: list[str], outs: list[str], *, io_in_arena: bool, has_pool: bool) -> str:
    """``tvmgen_rqdkm.h``, which TVM 0.19 no longer writes: the structs its interface code uses."""

    def struct(name: str, fields: list[str]) -> str:
        return f"struct tvmgen_{MODULE}_{name} {{\n" + "".join(f"  void* {f};\n" for f in fields) + "};\n"

    parameters = []
    if not io_in_arena:
        parameters += [f"struct tvmgen_{MODULE}_inputs* inputs", f"struct tvmgen_{MODULE}_outputs* outputs"]
    if has_pool:
        parameters.append(f"struct tvmgen_{MODULE}_workspace_pools* workspace_pools")
    text = "/* Generated. Structs and entry point of TVM's ahead-of-time executor. */\n"
    text += "#ifndef TVMGEN_RQDKM_H\n#define TVMGEN_RQDKM_H\n#include <stdint.h>\n"
    text += struct("inputs", ins) + struct("outputs", outs)
    if has_pool:
        text += struct("workspace_pools", [POOL])
    text += f"int32_t tvmgen_{MODULE}_run({', '.join(parameters)});\n#endif\n"
    return text


# ---- what went wrong


def _explained(mod: Any, message: str) -> ModelError:
    """Find the operator that cannot be compiled by compiling each one alone."""
    for call in calls(mod["main"]):
        if is_layer_call(call) or not op_name(call):
            continue
        reason = _fails_alone(call)
        if reason is not None:
            return UnsupportedOperatorError(
                f"neither our kernels nor TVM can compile it: {reason}",
                where=f'operator {op_name(call)}, layer "{source_name(call) or op_name(call)}"',
                hint="replace the operator in the model, or run that part outside of it",
            )
    return ModelError(f"TVM cannot compile the model: {message}")


def _fails_alone(call: Expr) -> str | None:
    """Why an operator, alone in a module, cannot be compiled; None if it can (or cannot be tried alone)."""
    params: list[Expr] = []

    def parameter(expr: Expr) -> Expr:
        if isinstance(expr, relay.Constant):
            return expr
        params.append(relay.var(f"x{len(params)}", expr.checked_type))
        return params[-1]

    args = []
    for arg in call.args:
        if isinstance(arg, relay.Tuple):
            args.append(relay.Tuple([parameter(field) for field in arg.fields]))
        elif isinstance(arg.checked_type, relay.TupleType):
            return None
        else:
            args.append(parameter(arg))
    alone = relay.Function(params, relay.Call(call.op, args, call.attrs, call.type_args))
    try:
        generated = _generate(relay.transform.InferType()(tvm.IRModule({"main": alone})))
    except Exception as error:  # TVM's Python code raises anything
        return _last_line(error)
    return _foreign_call(generated)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
