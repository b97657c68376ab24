"""Every kernel compiles for GPUs that are not here, and fits them."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyg_atomenc.errors import AtomEncodingError

pytest.importorskip("triton", "3.3", reason="Triton 3.3 is not installed")

TOOL = Path(__file__).parents[2] / "examples" / "benchmarks" / "compile_kernels.py"
# What a program may have on every GPU from sm_80 on: those of laptops have the least.
SHARED_MEMORY = 99 * 1024
# A few bytes of a thread; what counts is that no block of numbers is spilled.
SPILLED = 16
KERNELS = ("attention_forward", "attention_backward")


def compile_all(*arguments):
    """The tool's table, from a process in which Triton does compile."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, TOOL]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    print(done.stdout)
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    return importlib.import_module(TOOL.stem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_knows_every_kernel(dtype, tool):
    found = {launch.kernel for _, launch in tool.launches(dtype, 32, bias=True)}
    assert found == set(KERNELS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_kernel_fits(dtype, arch):
    rows = compile_all("--dtype", dtype, "--arch", arch, "--bias", "yes")
    found = [row["kernel"].split()[0] for row in rows]
    # Of atoms and of tokens, for every size class; float32 has one less.
    expected = 2 * (2 if dtype == "float32" else 3)
    assert {name: found.count(name) for name in set(found)} == dict.fromkeys(
        KERNELS, expected
    )
    for row in rows:
        assert row["GPU"] == f"sm_{arch}"
        assert int(row["shared memory"]) <= SHARED_MEMORY, row
        assert int(row["registers"]) <= 255 and int(row["spilled"]) <= SPILLED, row


@pytest.mark.slow
def test_what_residues_run_keeps_many_programs_on_a_processor():
    arguments = ("--dtype", "bfloat16", "--arch", 90, "--bias", "no")
    rows = compile_all(*arguments, "--only", r"\(pool.*, 16\)")
    assert len(rows) == 2
    for row in rows:
        # A multiprocessor of sm_90 has 65,536 registers and 227 KiB.
        threads = 32 * int(row["warps"])
        registers = 65536 // (int(row["registers"]) * threads)
        memory = 227 * 1024 // int(row["shared memory"])
        assert threads * min(registers, memory) >= 1024


def test_the_interpreter_compiles_nothing(monkeypatch, tool):
    monkeypatch.setenv("TRITON_INTERPRET", "true")
    with pytest.raises(
        AtomEncodingError, match="interpreter is on.*unset 'TRITON_INTERPRET'"
    ):
        tool.main([])
