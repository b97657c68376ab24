"""Compile the triton backend's kernels for GPUs that need not be there.

    python examples/benchmarks/compile_kernels.py

with Triton 3.3 or newer prints what every kernel takes of a streaming multiprocessor:
registers of a thread, bytes that did not fit into them and were spilled to memory,
shared memory of a program, and the warp instructions of a token: those in the kernel's
machine code, times the program's warps, by the tokens of a program. The kernels have no
loops, so that a warp issues each once; both sides of a branch count, and instructions
that a predicate turns off, but not the padding behind the code. A kernel with a loop
has a dash there. `TRITON_INTERPRET` must not be set.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.triton.launch import NUM_STAGES, Launch, is_interpreted
from pyg_atomenc.attention.triton.operators import KernelCall
from pyg_atomenc.errors import AtomEncodingError, require_package

# A token of every size class. Where classes are fewer, larger ones need no kernel.
SIZES = (9, 20, 50)
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes.

    Attributes:
        kernel (str): Its name, form and size class.
        dtype (str): The inputs' type.
        width (int): Channels of a head.
        bias (bool): Whether logits have a bias.
        arch (int): The GPU's compute capability, times ten.
        items (int): Items of a program.
        num_warps (int): Groups of 32 threads of a program.
        registers (int): Of a thread.
        spilled (int): Bytes of a thread in local memory.
        shared (int): Bytes of a program in shared memory.
        instructions (float, optional): Of all warps, by the tokens of a program.
    """

    kernel: str
    dtype: str
    width: int
    bias: bool
    arch: int
    items: int
    num_warps: int
    registers: int
    spilled: int
    shared: int
    instructions: Optional[float]

    def row(self) -> str:
        """A row of the table."""
        found = [self.kernel, self.dtype, self.width, "yes" if self.bias else "no"]
        found += [f"sm_{self.arch}", self.items, self.num_warps]
        found += [self.registers, self.spilled, self.shared]
        found += ["–" if self.instructions is None else round(self.instructions)]
        return "| " + " | ".join(map(str, found)) + " |"


HEADER = (
    "| kernel | type | channels | bias | GPU | items | warps | registers "
    "| spilled | shared memory | instructions a token |\n" + "|---" * 11 + "|"
)


def launches(
    dtype: torch.dtype, width: int, bias: bool, heads: int = 4
) -> Iterator[tuple[str, Launch]]:
    """Every kernel as the backend would launch it, with the operator's name."""
    sizes = torch.tensor(SIZES)
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    layout = TokenLayout.from_index(index, len(sizes))
    context = OperatorContext.from_layout(layout, 0.0)
    query = torch.zeros(layout.num_atoms, heads, width, dtype=dtype)
    pairs = query.new_zeros(layout.num_pairs or 0, heads) if bias else None
    tensors = (query, query, query, pairs)
    found = [None if t is None else torch.empty_like(t) for t in tensors]
    weights = torch.zeros(layout.num_atoms, heads)
    tokens = query.new_zeros(layout.num_tokens, heads, width)
    for pool, name, outputs in (
        (False, "attend", [query]),
        (True, "pool", [tokens, weights]),
    ):
        call = KernelCall(tensors, context, pool)
        for launch in call.forward(*outputs):
            yield name, launch
        for launch in call.backward(outputs, found):
            yield f"{name} backward", launch


def compile_launch(launch: Launch, arch: int) -> Any:
    """The kernel of a launch, compiled for an architecture such as 90."""
    triton = require_package("triton", "compiling kernels")
    compiler = require_package("triton.compiler", "compiling kernels")
    backends = require_package("triton.backends.compiler", "compiling kernels")
    function = launch.function()
    signature, constants, aligned = {}, {}, {}
    for place, name in enumerate(function.arg_names):
        value = launch.arguments[name]
        signature[name] = _type_of(name, value)
        if signature[name] == "constexpr":
            constants[name] = value
        elif function.params[place].do_not_specialize:
            continue
        elif isinstance(value, Tensor) or value % 16 == 0:
            # torch's allocations are aligned, and a launch would see it.
            aligned[(place,)] = [["tt.divisibility", 16]]
    return triton.compile(
        compiler.ASTSource(function, signature, constants, aligned),
        target=backends.GPUTarget("cuda", arch, 32),
        options={"num_warps": launch.num_warps, "num_stages": NUM_STAGES},
    )


def _type_of(name: str, value: Any) -> str:
    if value is None or name.isupper():
        return "constexpr"
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def ask_tool(name: str, option: str, cubin: bytes) -> str:
    """What a program that Triton ships says of a compiled kernel."""
    nvidia = require_package("triton.backends.nvidia", "compiling kernels")
    program = Path(next(iter(nvidia.__path__))) / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [program, option, file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def usage_of(cubin: bytes) -> tuple[int, int]:
    """Registers and spilled bytes of a thread."""
    told = ask_tool("cuobjdump", "-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told)
    assert found is not None, told
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def count_instructions(code: str) -> Optional[int]:
    """Those of a kernel as nvdisasm writes it, up to the padding; None with a loop."""
    places: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    count = 0
    for line in code.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            places[label[1]] = count
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*);", line):
            if target := re.search(r"\bBRA.*`\((\.L_\w+)\)", instruction[1]):
                branches.append((count, target[1]))
            count += 1
    # What follows the last branch, to itself, is padding.
    (end, last), *others = reversed(branches)
    assert places[last] == end, "the code does not end with a branch to itself"
    return None if any(places[target] <= at for at, target in others) else end


def measure(
    dtype: str, width: int, bias: bool, arch: int, only: str = ""
) -> Iterator[Usage]:
    """Compile all kernels whose title has ``only`` for one type and width."""
    for name, launch in launches(DTYPES[dtype], width, bias):
        title = f"{launch.kernel} ({name}, {launch.arguments['S']})"
        if not re.search(only, title):
            continue
        compiled = compile_launch(launch, arch)
        cubin, items = compiled.asm["cubin"], launch.arguments["ITEMS"]
        count = count_instructions(ask_tool("nvdisasm", "-c", cubin))
        warps_a_token = launch.num_warps * launch.arguments["HEADS"] / items
        yield Usage(
            title,
            dtype,
            width,
            bias,
            arch,
            items,
            launch.num_warps,
            *usage_of(cubin),
            compiled.metadata.shared,
            None if count is None else count * warps_a_token,
        )


def main(arguments: Optional[list[str]] = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--width", nargs="+", type=int, default=[32])
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90])
    parser.add_argument("--bias", nargs="+", default=["no", "yes"])
    parser.add_argument("--only", default="", help="kernels that match this")
    args = parser.parse_args(arguments)
    if is_interpreted():
        raise AtomEncodingError(
            "Triton's interpreter is on, with which it compiles nothing: unset "
            "'TRITON_INTERPRET'."
        )
    print(HEADER)
    for arch in args.arch:
        for dtype in args.dtype:
            for width in args.width:
                for bias in args.bias:
                    for usage in measure(dtype, width, bias == "yes", arch, args.only):
                        print(usage.row(), flush=True)


if __name__ == "__main__":
    main()
