"""Every backend equals loops over tokens in float64, on a CUDA device."""

import pytest
import torch
from gpu_cases import (
    BACKENDS,
    DTYPES,
    Case,
    check_close,
    draw_layout,
    draw_weights,
    gradients,
)

from pyg_atomenc.attention import TokenLayout, attention, attention_pool, backends
from pyg_atomenc.attention.dispatch import choose_backend
from pyg_atomenc.attention.inputs import AttentionInputs

BY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
POOL = pytest.mark.parametrize("pool", [False, True])


@pytest.fixture(autouse=True)
def _poison():
    """Memory that nothing wrote is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def tolerance_of(backend, dtype):
    return backends()[backend].tolerance[dtype]


@pytest.mark.parametrize("bias", [False, True])
@POOL
@pytest.mark.parametrize("dtype", DTYPES)
@BY_BACKEND
def test_equals_the_loop(backend, dtype, pool, bias, device):
    case = Case(device, dtype, bias=bias)
    found, expected = case.run(backend, pool), case.expected(pool)
    tolerance, weights = tolerance_of(backend, dtype), draw_weights(expected)
    check_close(found, expected, tolerance, case.layout)
    check_close(
        gradients(found, case.tensors, weights),
        gradients(expected, case.exact, weights),
        tolerance,
        case.layout,
    )


SHAPES = {
    "values that heads share": {"value_heads": 1, "width": 3},
    "odd": {"d": 5, "width": 17, "heads": 3},
    "one channel": {"d": 1, "heads": 1, "bias": False},
    "64": {"d": 64, "heads": 2},
    "heads of several programs": {"heads": 12, "d": 16},
    "two heads a program": {"heads": 6, "d": 32, "bias": False},
    "128": {"d": 128, "width": 100, "heads": 1, "bias": False},
    "single atoms": {"sizes": (1,) * 70},
    "few": {"sizes": (3, 0, 17)},
    "nothing": {"sizes": (0, 0)},
}


@POOL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_of_other_shapes(shape, dtype, pool, device):
    options = {"sizes": (1, 2, 16, 0, 17, 33, 64, 65, 130), **SHAPES[shape]}
    case = Case(device, dtype, **options)
    if case.layout.num_atoms == 0:
        found = case.run("triton", pool)
        assert all((out == 0).all() for out in found)
        sums = [out.sum() for out in found]
        assert all(g.numel() == 0 for g in torch.autograd.grad(sums, case.tensors))
        return
    found, expected = case.run("triton", pool), case.expected(pool)
    tolerance, weights = tolerance_of("triton", dtype), draw_weights(expected)
    check_close(found, expected, tolerance)
    grads = gradients(expected, case.exact, weights, allow_unused=True)
    exact = [
        torch.zeros_like(t) if g is None else g
        for g, t in zip(grads, case.exact, strict=True)
    ]
    check_close(gradients(found, case.tensors, weights), exact, tolerance)


@POOL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@BY_BACKEND
def test_second_gradients(backend, dtype, pool, device):
    case = Case(device, dtype, sizes=(1, 2, 7, 12, 0, 16, 20, 33, 64, 65, 200))
    found, expected = case.run(backend, pool), case.expected(pool)
    weights, seconds = draw_weights(expected), []
    others = draw_weights(case.exact)
    for outputs, tensors in ((found, case.tensors), (expected, case.exact)):
        first = gradients(outputs, tensors, weights, create_graph=True)
        seconds.append(gradients(first, tensors, others))
    # Half types round the weights of both derivatives, too.
    allowed = tolerance_of(backend, dtype) * (1 if dtype == torch.float32 else 2)
    check_close(*seconds, allowed)


@POOL
@pytest.mark.parametrize("backend", ["dense", "triton"])
def test_runs_repeat_bit_by_bit(backend, pool, device):
    case = Case(device, torch.bfloat16)
    runs = []
    for _ in range(2):
        found = case.run(backend, pool)
        ones = [torch.ones_like(out) for out in found]
        runs.append([*found, *torch.autograd.grad(found, case.tensors, ones)])
    assert all(map(torch.equal, *runs))


def test_rows_that_are_not_neighbours_in_memory(device):
    case = Case(device, torch.float32, sizes=(3, 0, 17, 70))
    plain = case.run("triton", True)
    count, heads, width = case.tensors[0].shape
    memory = torch.full((count + 3, 3, heads, width), torch.nan, device=device)
    packed = memory[1:-2]
    for place, tensor in enumerate(case.tensors[:3]):
        packed[:, place] = tensor.detach()
    case.tensors[:3] = [t.requires_grad_() for t in packed.detach().unbind(1)]
    assert case.tensors[0].stride(0) == 3 * heads * width
    found = case.run("triton", True)
    assert all(map(torch.equal, found, plain))
    ones = [torch.ones_like(out) for out in found]
    grads = torch.autograd.grad(found, case.tensors, ones)
    assert all(g.isfinite().all() for g in grads)


def test_auto_is_one_of_them(device):
    case = Case(device, torch.float32)
    found = case.run("auto", True)
    check_close(found, case.expected(True), tolerance_of("dense", torch.float32))
    query, key, value, bias = case.tensors
    dropped = attention(query, key, value, case.layout, bias, dropout=0.1)
    assert dropped.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_takes_the_kernels(dtype, cuda):
    case = Case(cuda, dtype, sizes=(1, 5, 9, 30, 0, 14))
    inputs = AttentionInputs(*case.tensors[:3], case.layout, case.tensors[3])
    assert choose_backend("auto", inputs).name == "triton"
    tolerance = tolerance_of("triton", dtype)
    check_close(case.run("auto", True), case.expected(True), tolerance)
    # A few large tokens more, and all are taken by formulas.
    large = Case(cuda, dtype, sizes=(1, 5, 9, 30, 0, 14, 100))
    inputs = AttentionInputs(*large.tensors[:3], large.layout, large.tensors[3])
    assert choose_backend("auto", inputs).name == "dense"


@pytest.mark.parametrize("backend", ["dense", "edges"])
def test_dropout_repeats_by_the_seed(backend, device):
    case = Case(device, torch.float32, sizes=(1, 5, 9, 30, 70, 129))
    heads, layout = case.tensors[:3], case.layout

    def run(seed, value):
        torch.manual_seed(seed)
        given = (*heads[:2], value, layout, case.tensors[3])
        return attention_pool(*given, dropout=0.3, backend=backend)

    tokens, weights = run(7, heads[2])
    again, kept = run(7, heads[2])
    assert torch.equal(weights, kept) or backend == "edges"
    torch.testing.assert_close(tokens, again)
    assert not torch.allclose(tokens, run(8, heads[2])[0])
    # With one mask in both passes, outputs are linear in the values.
    (grad,) = torch.autograd.grad(tokens.sum(), heads[2])
    direction = torch.randn_like(heads[2])
    with torch.no_grad():
        moved = run(7, heads[2] + direction)[0].double().sum()
    change = moved - tokens.double().sum()
    torch.testing.assert_close(
        change, (grad.double() * direction).sum(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("backend", ["dense", "edges"])
def test_dropout_changes_no_expectation(backend, device):
    case = Case(device, torch.float32, sizes=(1, 5, 9, 30, 70), bias=False)
    with torch.no_grad():
        given = (*case.tensors, case.layout)
        runs = torch.stack(
            [
                attention_pool(*given, dropout=0.5, backend=backend)[0]
                for _ in range(200)
            ]
        ).double()
    expected = case.expected(True)[0].to(device)
    error = runs.std(0) / len(runs) ** 0.5
    scores = (runs.mean(0) - expected) / error
    # 640 normal numbers, of which many share a mask.
    assert scores.abs().max() < 6 and 0.5 < scores.std() < 1.6


def test_no_batch_has_a_kernel_compiled_anew(cuda):
    from pyg_atomenc.attention.triton import kernels

    functions = (kernels.attention_forward, kernels.attention_backward)
    if not hasattr(functions[0], "device_caches"):
        pytest.skip("this version of Triton keeps its kernels elsewhere")

    def count(small, middle):
        sizes = (3,) * small + (20,) * middle + (50,)
        case = Case(cuda, torch.bfloat16, sizes=sizes)
        torch.autograd.grad(case.run("triton", True)[0].sum(), case.tensors)
        caches = [c[0] for f in functions for c in f.device_caches.values()]
        return sum(map(len, caches))

    # Of one token, of a multiple of 16, and of others, Triton could tell them apart.
    numbers = {count(*tokens) for tokens in ((2, 3), (1, 1), (16, 16), (16, 5), (7, 1))}
    assert len(numbers) == 1


def test_more_than_two_billion_numbers(cuda):
    """Addresses of more than 32 bits: many small tokens, and only the last compared."""
    sizes = torch.full((1_900_000,), 9)
    count = int(sizes.sum())
    need = 8 * count * 128 * 2
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need / 2**30:.0f} GiB of free GPU memory")
    assert count * 128 > 2**31
    index = torch.arange(len(sizes), device=cuda).repeat_interleave(sizes.to(cuda))
    layout = TokenLayout.from_index(index, len(sizes))
    x = torch.randn(count, 4, 32, device=cuda, dtype=torch.bfloat16).requires_grad_()
    tokens, _ = attention_pool(x, x, x, layout, backend="triton")
    tokens.sum().backward()
    last = slice(-9 * 100, None)
    end = x.detach()[last].requires_grad_()
    part = TokenLayout.from_index(index[: 9 * 100])
    expected, _ = attention_pool(end, end, end, part, backend="triton")
    expected.sum().backward()
    assert torch.equal(tokens[-100:], expected)
    assert torch.equal(x.grad[last], end.grad)


def test_a_device_that_is_not_the_current_one(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    torch.manual_seed(0)
    first = Case("cuda:0", torch.float32)
    torch.manual_seed(0)
    second = Case("cuda:1", torch.float32)
    assert torch.cuda.current_device() == 0
    pairs = zip(first.run("triton", True), second.run("triton", True), strict=True)
    for one, other in pairs:
        assert other.device.index == 1
        torch.testing.assert_close(one.cpu(), other.cpu())


def test_an_empty_layout_moves(device):
    assert draw_layout((), device).num_tokens == 0
