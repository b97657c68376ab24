from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from pyg_atomenc.attention import TokenLayout, WindowLayout
from pyg_atomenc.attention.autograd import Setting
from pyg_atomenc.attention.dense.plan import (
    CHUNK_COST,
    MAX_ATOMS,
    MAX_PAIRS,
    make_plan,
)
from pyg_atomenc.attention.triton.plan import make_spans


@given(st.lists(st.integers(0, 40), max_size=200))
def test_chunks_cover_every_token_once_in_order(sizes):
    plan = make_plan(torch.tensor(sizes, dtype=torch.long)).tolist()
    ordered = sorted(sizes)
    atom, token = 0, ordered.count(0)
    for first_atom, num_atoms, first_token, num_tokens, largest in plan:
        taken = ordered[first_token : first_token + num_tokens]
        assert (first_atom, first_token) == (atom, token)
        assert sum(taken) == num_atoms
        assert max(taken) == largest
        atom, token = atom + num_atoms, token + num_tokens
    assert (atom, token) == (sum(sizes), len(sizes))


def test_a_plan_stays_on_the_cpu():
    index = torch.tensor([0, 0, 1, 3, 3, 3])
    # Any other device than the CPU will do.
    with torch.device("meta"):
        layout = TokenLayout.from_index(index, 4)
        setting = Setting.from_layout(layout, 0.0)
        spans = make_spans(setting, (2, 16))
        windows = WindowLayout.from_ptr(torch.tensor([0, 50], device="cpu"))
    assert layout.plan.device.type == "cpu"
    assert [(span.size, span.count) for span in spans] == [(2, 1), (16, 3)]
    assert torch.equal(windows.query_start, torch.tensor([0, 32]))


def test_a_plan_that_was_moved_comes_back():
    class Moved(torch.Tensor):
        device = torch.device("cuda")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    layout = TokenLayout.from_index(torch.tensor([0, 0, 1]))
    moved = replace(layout, plan=layout.plan.as_subclass(Moved))
    plan = Setting.from_layout(moved, 0.0).plan
    assert type(plan) is torch.Tensor and torch.equal(plan, layout.plan)


def test_padding_and_chunk_size_are_bounded():
    generator = torch.Generator().manual_seed(3)
    sizes = torch.randint(0, 60, (5000,), generator=generator)
    plan = make_plan(sizes)
    padded = (plan[:, 3] * plan[:, 4] ** 2).sum()
    exact = (sizes**2).sum()
    groups = plan[:, 4].unique().numel()
    assert padded - exact <= CHUNK_COST * groups
    assert (plan[:, 1] <= MAX_ATOMS).all()
    assert (plan[:, 3] * plan[:, 4] ** 2 <= MAX_PAIRS).all()


def test_the_number_of_chunks_does_not_grow_with_equal_tokens_of_one_chunk():
    assert len(make_plan(torch.full((100,), 8))) == 1
    assert len(make_plan(torch.full((10**6,), 8))) == -(-(10**6) // (MAX_ATOMS // 8))
    assert len(make_plan(torch.tensor([20_000]))) == 1
