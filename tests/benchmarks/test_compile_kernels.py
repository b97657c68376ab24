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
def test_what_residues_run_keeps_memory_busy():
    arguments = ("--dtype", "bfloat16", "--arch", 90, "--bias", "no")
    rows = compile_all(*arguments, "--only", r"\(pool.*, 16\)")
    assert len(rows) == 2
    for row in rows:
        # A multiprocessor of sm_90 has 65,536 registers, 227 KiB, and 32 programs.
        threads = 32 * int(row["warps"])
        registers = 65536 // (int(row["registers"]) * threads)
        memory = 227 * 1024 // int(row["shared memory"])
        programs = min(registers, memory, 32)
        # Its part of 3.35 TB/s takes 25 kB under way, where a row is there after 1 us.
        # A residue of 8 atoms has three rows of 4 heads in bfloat16 for each.
        assert programs * 8 * 3 * 256 >= 2 * 25_000


CODE = """
        .other          attention_forward,@"STO_CUDA_ENTRY STV_DEFAULT"
.text.attention_forward:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `({target}) ;
{back}:
        /*0020*/                   LDG.E.64 R2, desc[UR16][R20.64] ;
{onward}:
        /*0030*/                   EXIT ;
.L_x_3:
        /*0040*/                   BRA `(.L_x_3);
        /*0050*/                   NOP;
        /*0060*/                   NOP;
"""


def test_counts_instructions_up_to_the_padding(tool):
    code = CODE.format(target=".L_x_1", back=".L_x_0", onward=".L_x_1")
    assert tool.count_instructions(code) == 4
    # A branch back makes a loop, whose turns nobody knows.
    lines = code.splitlines()
    loop = "        /*0025*/          @P1 BRA `(.L_x_0) ;"
    lines.insert(lines.index(".L_x_1:"), loop)
    assert tool.count_instructions("\n".join(lines)) is None
    assert tool.count_instructions(code.replace("BRA `(.L_x_1)", "NOP")) == 4


# Warp instructions of a token of up to 16 atoms in bfloat16, 4 heads of 32 channels, as
# compiled by Triton 3.9 and a twentieth: some 890 and 1,640, and 918 and 1,641.
INSTRUCTIONS = {80: (930, 1720), 90: (970, 1730)}


@pytest.mark.slow
@pytest.mark.parametrize("arch", INSTRUCTIONS)
def test_instructions_of_a_residue_stay_as_few(arch):
    arguments = ("--dtype", "bfloat16", "--arch", arch, "--bias", "no")
    rows = compile_all(*arguments, "--only", r"\(pool.*, 16\)")
    assert [row["kernel"].split()[0] for row in rows] == list(KERNELS)
    for row, most in zip(rows, INSTRUCTIONS[arch], strict=True):
        # Half of them would be a program that does something else.
        assert most / 2 < int(row["instructions a token"]) <= most, row


def test_the_interpreter_compiles_nothing(monkeypatch, tool):
    monkeypatch.setenv("TRITON_INTERPRET", "true")
    with pytest.raises(
        AtomEncodingError, match="interpreter is on.*unset 'TRITON_INTERPRET'"
    ):
        tool.main([])
