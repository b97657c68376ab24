"""How kernels are configured and launched, without a GPU."""

import sys

import pytest
import torch

from pyg_atomenc.attention.triton import launch as launching
from pyg_atomenc.attention.triton.launch import (
    Launch,
    block_width,
    kernel_configs,
    max_channels,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_width_has_configurations(dtype):
    for width in range(1, max_channels(dtype) + 1):
        block = block_width(width)
        assert block >= max(16, width) and block & (block - 1) == 0
        sizes = list(kernel_configs(dtype, block))
        assert sizes == sorted(sizes) and sizes[0] == 16


def test_the_interpreter_is_on_where_triton_says_so(monkeypatch):
    jit = pytest.importorskip("triton").jit

    def kernel():
        pass

    for word in ("1", "true", "True", "on", "YES", "0", "false", "off", "", None):
        if word is None:
            monkeypatch.delenv("TRITON_INTERPRET")
        else:
            monkeypatch.setenv("TRITON_INTERPRET", word)
        interpreted = "Interpreted" in type(jit(kernel)).__name__
        assert launching.is_interpreted() == interpreted, word


def test_without_triton_nothing_is_interpreted(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(
        launching, "import_module", lambda name: pytest.fail("was imported")
    )
    assert not launching.is_interpreted()


def test_a_kernel_gets_its_own_arguments_alone(monkeypatch):
    class Kernel:
        arg_names = ("x", "ITEMS")

        def __getitem__(self, grid):
            return lambda **arguments: calls.append((grid, arguments))

    calls = []
    monkeypatch.setattr(Launch, "function", lambda self: Kernel())
    Launch("attention_forward", 10, 8, {"x": 1, "y": 2, "ITEMS": 4}).submit(CPU)
    expected = {"x": 1, "ITEMS": 4, "num_warps": 8, "num_stages": 1}
    assert calls == [((10,), expected)]
    Launch("attention_forward", 0, 8, {"x": 1, "ITEMS": 4}).submit(CPU)
    assert len(calls) == 1
