"""Samples over windows on a CUDA device equal the edges in float64."""

import pytest
import torch
from fused_calls import FusedCalls
from gpu_cases import DTYPES, check_close, draw_weights, gradients

from pyg_atomenc.attention import WindowBias, WindowLayout, attention, backends


def make(ptr, samples, dtype, bias_dtype=None, **sizes):
    layout = WindowLayout.from_ptr(torch.tensor(ptr), **sizes)
    drawn = [torch.randn(samples, layout.num_atoms, 4, 32).to(dtype) for _ in range(3)]
    bias = torch.randn(layout.num_pairs, 4).to(bias_dtype or dtype)
    return layout, [*drawn, bias]


@pytest.mark.parametrize("bias_dtype", [None, torch.float32])
@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples(dtype, grad, is_sorted, bias_dtype, device):
    layout, drawn = make([0, 500, 501, 900], 3, dtype, bias_dtype)
    exact = [t.double().requires_grad_() for t in drawn]
    tensors = [t.to(device).requires_grad_(grad) for t in drawn]
    expected = (attention(*exact[:3], layout, exact[3], backend="edges"),)
    there, bias = layout.to(device), tensors[3]
    if is_sorted:
        bias = WindowBias.from_edges(bias, there)
    with FusedCalls() as calls:
        found = (attention(*tensors[:3], there, bias, backend="dense"),)
    kept = torch.float32 if device.type == "cpu" else dtype
    fused = not grad and torch.promote_types(kept, drawn[3].dtype) == kept
    assert {q.dtype for q in calls.queries} == ({kept} if fused else set())
    assert found[0].dtype == dtype
    tolerance = backends()["dense"].tolerance[dtype]
    check_close(found, expected, tolerance)
    if grad:
        ways = draw_weights(expected)
        others = gradients(expected, exact, ways)
        check_close(gradients(found, tensors, ways), others, tolerance)


@pytest.mark.parametrize("samples", [1, 5])
def test_more_windows_than_a_grid_has_places(samples, cuda):
    layout, drawn = make([0, 40_000], samples, torch.float16, queries=2, keys=4)
    assert layout.num_windows * 4 > 65_535
    exact = [t.double() for t in drawn]
    expected = (attention(*exact[:3], layout, exact[3], backend="edges"),)
    tensors = [t.to(cuda) for t in drawn]
    found = (attention(*tensors[:3], layout.to(cuda), tensors[3], backend="dense"),)
    check_close(found, expected, backends()["dense"].tolerance[torch.float16])


def test_samples_hold_one_bias(cuda):
    layout, drawn = make([0, 8192], 16, torch.bfloat16)
    tensors, there = [t.to(cuda) for t in drawn], layout.to(cuda)
    bias = WindowBias.from_edges(tensors[3], there)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention(*tensors[:3], there, bias, backend="dense")
    held = torch.cuda.max_memory_allocated() - before
    # A bias for every sample, as the keys and values of all windows, are 16 times it.
    repeated = 16 * bias.values.numel() * bias.values.element_size()
    gathered = 2 * 16 * there.num_windows * 128 * 4 * 32 * 2
    atoms = 16 * 8192 * 4 * 32 * 2
    assert held < gathered + 4 * atoms + repeated // 2
