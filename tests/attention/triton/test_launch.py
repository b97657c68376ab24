"""Which way of cutting a kernel is taken, without a GPU."""

import sys

import pytest
import torch

from pyg_atomenc.attention.triton import launch as launching
from pyg_atomenc.attention.triton.configurations import KernelConfig
from pyg_atomenc.attention.triton.launch import Launch

FIRST, SECOND, THIRD = KernelConfig(4, 4), KernelConfig(8, 8), KernelConfig(2, 2)
TIMES = {FIRST: 3.0, SECOND: 1.0, THIRD: float("inf")}
GPU = torch.device("cuda", 0)


def launch(configs=(FIRST, SECOND, THIRD), **arguments):
    return Launch("small_forward", "ITEMS", lambda block: 10, configs, arguments)


@pytest.fixture
def timed(monkeypatch):
    """The launches that were timed."""
    found = []

    def time(launch, config):
        found.append(config)
        return TIMES[config]

    monkeypatch.setattr(launching, "_CHOSEN", {})
    monkeypatch.setattr(launching, "_time", time)
    monkeypatch.setattr(launching, "_processors", lambda device: 1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return found


def test_the_fastest_is_kept_for_the_same_arguments(timed):
    x = torch.zeros(3)
    for _ in range(2):
        assert launching._choose(launch(x=x, n=3, D=8), GPU) == SECOND
    # A number does not matter, nor do values; types, constants and devices do.
    launching._choose(launch(x=x + 1, n=4, D=8), GPU)
    assert len(timed) == 3
    others = [{"x": x.half(), "D": 8}, {"x": x, "D": 9}, {"x": None, "D": 8}]
    for count, arguments in enumerate(others, 2):
        launching._choose(launch(n=3, **arguments), GPU)
        assert len(timed) == 3 * count
    launching._choose(launch(x=x, n=3, D=8), torch.device("cuda", 1))
    assert len(timed) == 15


def test_the_first_is_taken_where_nothing_may_be_timed(timed, monkeypatch):
    assert launching._choose(launch((THIRD,)), GPU) == THIRD
    torch.use_deterministic_algorithms(True)
    try:
        assert launching._choose(launch(), GPU) == FIRST
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert launching._choose(launch(), GPU) == FIRST
    assert not timed
    # Which is not remembered.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert launching._choose(launch(), GPU) == SECOND


def test_a_small_launch_settles_nothing_for_large_ones(timed, monkeypatch):
    monkeypatch.setattr(launching, "_processors", lambda device: 2)
    few, many = (
        Launch("small_forward", "ITEMS", lambda block, n=n: n, (FIRST, SECOND), {})
        for n in (15, 16)
    )
    assert launching._choose(few, GPU) == FIRST
    assert not timed
    assert launching._choose(many, GPU) == SECOND
    # Nor the other way round: a call gives the same bits whatever ran before.
    assert launching._choose(few, GPU) == FIRST


def test_more_programs_than_a_grid_holds(monkeypatch):
    monkeypatch.setattr(Launch, "function", lambda self: pytest.fail("was launched"))
    huge = Launch("small_forward", "ITEMS", lambda block: 2**31, (FIRST,), {})
    with pytest.raises(ValueError, match="'layout' has so .* 2,147,483,648 .*split"):
        launching.submit(huge, torch.device("cpu"))


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
    cpu = torch.device("cpu")
    launching.submit(launch(x=1, y=2), cpu)
    expected = {"x": 1, "ITEMS": 4, "num_warps": 4, "num_stages": 1}
    assert calls == [((10,), expected)]
    empty = Launch("small_forward", "ITEMS", lambda block: 0, (FIRST,), {"x": 1})
    launching.submit(empty, cpu)
    assert len(calls) == 1
