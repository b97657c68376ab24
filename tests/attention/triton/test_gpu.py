"""What only a GPU can show: graphs, devices, memory, and large addresses."""

import pytest
import torch

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.attention import (
    TokenLayout,
    WindowLayout,
    attention,
    attention_pool,
    backends,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def make(sizes, dtype, heads=4, d=32, bias=True, device="cuda"):
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    index = index[torch.randperm(len(index))]
    layout = TokenLayout.from_index(index, len(sizes))
    shapes = [(len(index), heads, d)] * 3
    if bias:
        shapes.append((layout.num_pairs, heads))
    tensors = [torch.randn(shape).to(device, dtype) for shape in shapes]
    return layout.to(device), [t.requires_grad_() for t in tensors]


def mixed(tokens=2000):
    sizes = torch.randint(0, 40, (tokens,))
    sizes[:8] = torch.tensor([64, 65, 100, 128, 129, 300, 1000, 0])
    return sizes


def run(layout, tensors, pool, name):
    if pool:
        outputs = attention_pool(*tensors[:3], layout, *tensors[3:], backend=name)
    else:
        outputs = [attention(*tensors[:3], layout, *tensors[3:], backend=name)]
    loss = sum((o.double() * o.detach().double().sign()).sum() for o in outputs)
    return [*outputs, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["triton", "dense", "edges"])
def test_backends_agree(name, dtype, pool):
    layout, tensors = make(mixed(), dtype)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = run(layout, exact, pool, "edges")
    tolerance = backends()[name].tolerance[dtype]
    for one, other in zip(run(layout, tensors, pool, name), expected, strict=True):
        gap = (one.double() - other).abs().max() / other.abs().max()
        assert gap <= tolerance


def test_auto_takes_it():
    layout, tensors = make(mixed(), torch.bfloat16, bias=False)
    found = attention_pool(*tensors, layout)
    triton = attention_pool(*tensors, layout, backend="triton")
    assert all(map(torch.equal, found, triton))
    dropped, _ = attention_pool(*tensors, layout, dropout=0.1)
    assert dropped.isfinite().all()


def test_a_graph_replays_with_new_numbers():
    layout, tensors = make(mixed(), torch.bfloat16)
    for _ in range(3):
        # Kernels are compiled and plans made before the capture.
        run(layout, tensors, True, "triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(layout, tensors, True, "triton")
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for one, other in zip(found, run(layout, tensors, True, "triton"), strict=True):
        assert torch.equal(one, other)


def test_nothing_waits_for_the_device():
    layout, tensors = make(mixed(), torch.bfloat16)
    run(layout, tensors, True, "triton")
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(layout, tensors, True, "triton")
        run(layout, tensors, False, "triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_an_encoder_compiles_whole(mode):
    layout, (x, *_) = make(mixed(), torch.float32, bias=False)
    x = x.detach().flatten(1)
    encoder = AtomAttentionEncoder(128).cuda()
    compiled = torch.compile(encoder, fullgraph=True, mode=mode)
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        found = compiled(x, layout)
        found.sum().backward()
    torch.testing.assert_close(found, encoder(x, layout), rtol=1e-4, atol=1e-5)


def test_an_encoder_under_autocast():
    layout, (x, *_) = make(mixed(), torch.float32, bias=False)
    x = x.detach().flatten(1)
    encoder = AtomAttentionEncoder(128).cuda()
    expected = encoder.double()(x.double(), layout)
    encoder.float()
    with torch.autocast("cuda", torch.bfloat16):
        found = encoder(x, layout)
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() <= 3e-2 * expected.abs().max()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_a_device_that_is_not_the_current_one():
    sizes = mixed(100)
    torch.manual_seed(0)
    first = make(sizes, torch.float32)
    torch.manual_seed(0)
    second = make(sizes, torch.float32, device="cuda:1")
    assert torch.cuda.current_device() == 0
    for one, other in zip(
        run(*first, True, "triton"), run(*second, True, "triton"), strict=True
    ):
        assert other.device.index == 1
        torch.testing.assert_close(one.cpu(), other.cpu())


def test_more_than_two_billion_numbers():
    sizes = torch.full((1_900_000,), 9)
    count, need = int(sizes.sum()), 4 * int(sizes.sum()) * 128 * 2
    if torch.cuda.mem_get_info()[0] < 2 * need:
        pytest.skip(f"needs {2 * need / 2**30:.0f} GiB of free GPU memory")
    assert count * 128 > 2**31
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    layout = TokenLayout.from_index(index, len(sizes)).to("cuda")
    x = torch.randn(count, 4, 32, device="cuda", dtype=torch.bfloat16)
    x.requires_grad_()
    tokens, _ = attention_pool(x, x, x, layout, backend="triton")
    tokens.sum().backward()
    last = slice(-9 * 100, None)
    end = x.detach()[last].requires_grad_()
    part = TokenLayout.from_index(index[: 9 * 100]).to("cuda")
    expected, _ = attention_pool(end, end, end, part, backend="triton")
    expected.sum().backward()
    assert torch.equal(tokens[-100:], expected)
    assert torch.equal(x.grad[last], end.grad)


def test_memory_is_inputs_and_outputs():
    layout, tensors = make(torch.full((100_000,), 9), torch.bfloat16, bias=False)
    one = tensors[0].numel() * 2
    outputs = one // 9 + tensors[0].size(0) * 4 * 4
    for backward, extra in ((False, outputs), (True, 3 * one + 2 * outputs)):

        def step(backward=backward):
            tokens, _ = attention_pool(*tensors, layout, backend="triton")
            if backward:
                torch.autograd.grad(tokens, tensors, torch.ones_like(tokens))

        step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated() - before
        assert 3 * one + peak <= 1.2 * (3 * one + extra)


def test_windows_take_the_memory_efficient_kernel():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    layout = WindowLayout.from_batch(torch.tensor([0, 500, 1300]), 32, 128).to("cuda")
    shape = (layout.num_atoms, 4, 32)
    query, key, value = (torch.randn(shape, device="cuda") for _ in range(3))
    bias = torch.randn(layout.num_pairs, 4, device="cuda")
    expected = attention(query, key, value, layout, bias, backend="edges")
    # Which raises where the kernel cannot take the mask.
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        found = attention(query, key, value, layout, bias, backend="dense")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
