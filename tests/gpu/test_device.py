"""Nothing waits for the device, and memory grows as the atoms do."""

from contextlib import contextmanager

import pytest
import torch
from gpu_cases import BACKENDS, Case, draw_layout

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData, TokenAttentionConv
from pyg_atomenc.attention import TokenLayout, WindowLayout, attention_pool
from pyg_atomenc.data import AtomTokenLoader


@contextmanager
def nothing_waits():
    """An error for every operation that waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_waits_for_nothing(backend, pool, bias, cuda):
    def step(case):
        outputs = case.run(backend, pool)
        ones = [torch.ones_like(out) for out in outputs]
        torch.autograd.grad(outputs, case.tensors, ones)

    step(Case(cuda, torch.bfloat16, bias=bias))
    # Not even the first use of a layout does.
    case = Case(cuda, torch.bfloat16, bias=bias)
    with nothing_waits():
        step(case)
        step(case)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_waits_for_nothing(backend, cuda):
    encoder = AtomAttentionEncoder(64, edge_dim=3, backend=backend).to(cuda)

    def draw():
        layout = draw_layout(device=cuda)
        x = torch.randn(layout.num_atoms, 64, device=cuda, requires_grad=True)
        return x, layout, torch.randn(layout.num_pairs, 3, device=cuda)

    def step(x, layout, pairs):
        encoder(x, layout, edge_attr=pairs).sum().backward()

    step(*draw())
    batch = draw()
    with nothing_waits():
        step(*batch)
    if backend != "triton":
        encoder.dropout = 0.1
        with nothing_waits():
            step(*batch)


def test_windows_wait_for_nothing(cuda):
    conv = TokenAttentionConv(32, 8, 4, edge_dim=3).to(cuda)
    layout = WindowLayout.from_ptr(torch.tensor([0, 500, 1300])).to(cuda)
    x = torch.randn(1300, 32, device=cuda)
    pairs = torch.randn(layout.num_pairs, 3, device=cuda)
    conv(x, layout, pairs).sum().backward()
    with nothing_waits():
        conv(x, layout, pairs).sum().backward()


def graphs(count):
    """Molecules of tokens of 1 to 9 atoms."""
    found = []
    for _ in range(count):
        sizes = torch.randint(1, 10, (5,))
        index = torch.arange(5).repeat_interleave(sizes)
        edges = torch.zeros(2, 0, dtype=torch.long)
        x = torch.randn(len(index), 16)
        found.append(AtomTokenData(x=x, edge_index=edges, atom_to_token=index))
    return found


def test_batches_of_a_loader_move_without_waiting(cuda):
    encoder = AtomAttentionEncoder(16, 8, 2).to(cuda)
    data = graphs(24)
    plain = list(AtomTokenLoader(data, batch_size=8))
    pinned = list(AtomTokenLoader(data, batch_size=8, pin_memory=True))
    encoder(plain[0].x.to(cuda), plain[0].token_layout().to(cuda)).sum().backward()
    outputs = []
    for batch in pinned:
        assert batch.x.is_pinned() and batch.token_layout().perm.is_pinned()
        with nothing_waits():
            batch = batch.to(cuda, non_blocking=True)
            outputs.append(encoder(batch.x, batch.token_layout()))
            outputs[-1].sum().backward()
    encoder.cpu()
    for batch, found in zip(plain, outputs, strict=True):
        expected = encoder(batch.x, batch.token_layout())
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def peak_of(step):
    """Bytes that a second run takes beyond what was there."""
    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("backend", ["dense", "triton"])
def test_memory_grows_as_the_atoms(backend, cuda):
    encoder = AtomAttentionEncoder(128, backend=backend).to(cuda)
    peaks = []
    for count in (20_000, 40_000, 80_000):
        layout = draw_layout((9,) * count, cuda)
        x = torch.randn(layout.num_atoms, 128, device=cuda, requires_grad=True)

        def step(x=x, layout=layout):
            torch.autograd.grad(encoder(x, layout).sum(), [x, *encoder.parameters()])

        peaks.append(peak_of(step) / layout.num_atoms)
    assert peaks[-1] <= 1.1 * peaks[0]


@pytest.mark.parametrize("grad", [False, True])
def test_memory_is_inputs_and_outputs(grad, cuda):
    case = Case(cuda, torch.bfloat16, sizes=(9,) * 100_000, bias=False)
    one = case.tensors[0].nbytes
    # Tokens, and the atom weights in float32.
    outputs = one // 9 + case.layout.num_atoms * 4 * 4
    extra = 3 * one + 2 * outputs if grad else outputs

    def step():
        tokens, _ = attention_pool(*case.tensors, case.layout, backend="triton")
        if grad:
            torch.autograd.grad(tokens, case.tensors, torch.ones_like(tokens))

    assert 3 * one + peak_of(step) <= 1.2 * (3 * one + extra)


def test_large_tokens_take_no_matrix_of_their_pairs(cuda):
    layout = TokenLayout.from_index(torch.zeros(30_000, device=cuda).long())
    tensors = [torch.randn(30_000, 1, 16, device=cuda) for _ in range(3)]
    for backend in ("dense", "triton"):

        def step(backend=backend):
            attention_pool(*tensors, layout, backend=backend)

        assert peak_of(step) < 0.1 * 4 * layout.num_pairs
