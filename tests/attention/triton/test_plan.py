"""Every token is in one size class, or among the large ones."""

import gc
import weakref

import pytest
import torch

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.triton.plan import plan_of

MIXES = {
    "all sizes": (1, 2, 15, 16, 0, 17, 33, 64, 65, 0, 300),
    "small": (3, 1, 14, 9),
    "medium": (20, 30, 40),
    "large": (500, 129, 128, 127),
    "around a limit": tuple(range(60, 70)),
    "empty": (0, 0, 3),
    "many": tuple(int(17 * i) % 23 for i in range(400)),
}
SIZES = [(16, 32, 64), (16, 32), (16,)]


def make(sizes):
    sizes = torch.tensor(sizes)
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    return TokenLayout.from_index(index[torch.randperm(len(index))], len(sizes))


def context_of(sizes):
    return OperatorContext.from_layout(make(sizes), 0.0)


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("name", MIXES)
def test_every_token_once(name, classes):
    sizes = MIXES[name]
    plan = plan_of(context_of(sizes), classes)
    order = plan.token_order.tolist()
    taken = order[: plan.num_empty]
    assert all(sizes[t] == 0 for t in taken)
    for part in plan.classes:
        tokens = order[part.first : part.first + part.count]
        # No program runs for nothing, and none is wider than it needs.
        below = [size for size in classes if size < part.size]
        least = max(below, default=0)
        assert tokens and all(least < sizes[t] <= part.size for t in tokens)
        taken += tokens
    if plan.large is not None:
        large = plan.large.tokens.tolist()
        assert large and all(sizes[t] > classes[-1] for t in large)
        taken += large
    assert sorted(taken) == list(range(len(sizes)))


def test_large_tokens_are_a_layout_of_their_own():
    layout = make((70, 3, 0, 100, 65, 64))
    context = OperatorContext.from_layout(layout, 0.0)
    large = plan_of(context, (16, 32, 64)).large
    assert large.tokens.tolist() == [0, 3, 4]
    own = large.context
    assert own.ptr.diff().tolist() == [70, 100, 65]
    assert torch.equal(own.host_ptr, own.ptr.cpu())
    token = layout.atom_to_token[large.atoms]
    assert torch.equal(token, large.tokens.repeat_interleave(own.ptr.diff()))
    # Its edges are those of the whole layout, told in atoms of the large tokens.
    inner = TokenLayout(token, own.perm, own.ptr, own.host_ptr)
    expected = layout.to_edge_index()[:, large.pairs()]
    assert torch.equal(large.atoms[inner.to_edge_index()], expected)


def test_no_launch_for_what_is_not_there():
    plan = plan_of(context_of((3, 4, 5)), (16, 32, 64))
    assert [(part.size, part.count) for part in plan.classes] == [(16, 3)]
    assert plan.large is None
    plan = plan_of(context_of((65, 70)), (16, 32, 64))
    assert plan.classes == [] and plan.large is not None


def test_a_plan_is_made_once_for_every_tuple_of_sizes():
    context = context_of((3, 20))
    assert plan_of(context, (16,)) is plan_of(context, (16,))
    assert plan_of(context, (32,)) is not plan_of(context, (16,))


def test_a_plan_goes_with_its_layout():
    context = context_of((3, 70))
    pointers = weakref.ref(context.ptr)
    plan_of(context, (16,))
    del context
    gc.collect()
    assert pointers() is None
