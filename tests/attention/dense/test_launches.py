"""How many kernels a step launches where chunks are those of an accelerator."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pyg_atomenc import AtomAttentionEncoder, TokenLayout
from pyg_atomenc.attention.dense import attend, plan

# Calls of these make a tensor, or another view of one: nothing is launched.
VIEWS = """
alias as_strided detach detach_ empty empty_like empty_strided expand expand_as
flatten lift_fresh mT movedim narrow new_empty new_empty_strided permute reshape
resolve_conj resolve_neg result_type select slice split split_with_sizes squeeze t
to transpose unbind unflatten unsqueeze view _unsafe_view
""".split()


def is_launch(event):
    name = event.name.removeprefix("aten::")
    return name != event.name and name not in VIEWS


def launches(function):
    """The calls of torch's operators that compute something, and call no other."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        function()
    events = [event for event in found.events() if is_launch(event)]
    return sum(not any(map(is_launch, event.cpu_children)) for event in events)


def counts(index):
    encoder = AtomAttentionEncoder(16, 4, heads=2, backend="dense")
    layout = TokenLayout.from_index(index)
    x = torch.randn(len(index), 16, requires_grad=True)
    grad = torch.randn(layout.num_tokens, 8)

    def step():
        encoder(x, layout).backward(grad)

    step()
    with torch.no_grad():
        forward = launches(lambda: encoder(x, layout))
    return forward, launches(step)


@pytest.fixture
def accelerator(monkeypatch):
    """Plan on this CPU as on an accelerator, whose softmax is fast at any width."""

    def of_sizes(*args):
        # Indices by head are kept on a CPU alone.
        return replace(padding(*args), split=None, joined=None)

    padding = plan.Padding.of_sizes
    monkeypatch.setattr(plan.Padding, "of_sizes", of_sizes)
    monkeypatch.setattr(plan, "CPU", plan.ACCELERATOR)
    monkeypatch.setattr(attend, "_NARROW", 0)


@pytest.mark.parametrize("atoms", [1_000, 25_000, 100_000])
def test_at_any_number_of_residues_few_kernels_are_launched(atoms, accelerator):
    sizes = torch.randint(4, 15, (atoms // 9,))
    forward, both = counts(torch.arange(len(sizes)).repeat_interleave(sizes))
    assert 10 < forward <= 40 and forward < both <= 110


@pytest.mark.parametrize("large", [0, 6])
def test_so_for_fragments_single_atoms_and_some_large_tokens(large, accelerator):
    sizes = torch.randint(1, 25, (2_000,))
    sizes = torch.cat([sizes, torch.randint(300, 1501, (large,))])
    forward, both = counts(torch.arange(len(sizes)).repeat_interleave(sizes))
    assert forward <= 40 and both <= 110


def test_a_launch_is_counted_once_and_a_view_never():
    x = torch.randn(3, 4, 5)
    assert launches(lambda: x.view(12, 5).t()[1:].unbind(1)) == 0
    assert launches(lambda: torch.baddbmm(x, x, x.new_ones(3, 5, 5)).softmax(1)) == 3
