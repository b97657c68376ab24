"""Samples that share windows and a bias equal the samples one by one."""

import pytest
import torch
from fused_calls import FusedCalls
from torch._dynamo.testing import CompileCounter
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_atomenc.attention import WindowBias, WindowLayout, attention, backends
from pyg_atomenc.attention.dense import windows as dense_windows

BIASES = pytest.mark.parametrize("bias", ["none", "edges", "sorted"])


def make(
    ptr=(0, 3, 3, 4, 40), samples=3, *, bias="edges", dtype=torch.float64, **shape
):
    layout = WindowLayout.from_ptr(torch.tensor(ptr), 4, 8, shifted=True)
    heads, n = shape.get("heads", 2), layout.num_atoms
    shapes = [(samples, n, heads, 3)] * 2
    shapes.append((samples, n, shape.get("value_heads", heads), 5))
    if bias != "none":
        shapes.append((layout.num_pairs, heads))
    return layout, [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]


def run(layout, query, key, value, bias=None, *, is_sorted=False, **options):
    if is_sorted:
        bias = WindowBias.from_edges(bias, layout)
    options.setdefault("backend", "dense")
    return attention(query, key, value, layout, bias, **options)


def one_by_one(layout, query, key, value, bias=None):
    """The definition, sample after sample."""
    each = zip(query, key, value, strict=True)
    return torch.stack([run(layout, *x, bias, backend="edges") for x in each])


@pytest.fixture
def accelerator(monkeypatch):
    """The CPU is taken for a device that is no CPU."""
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda self: False))


@BIASES
@pytest.mark.parametrize("value_heads", [1, 2])
@pytest.mark.parametrize("step", [1, 7, 512])
def test_equal_the_samples_one_by_one(bias, value_heads, step, monkeypatch):
    monkeypatch.setattr(dense_windows, "CPU_WINDOWS", step)
    layout, tensors = make(bias=bias, value_heads=value_heads)
    found = run(layout, *tensors, is_sorted=bias == "sorted")
    expected = one_by_one(layout, *tensors)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    grads = []
    for out in (found, expected):
        first = torch.autograd.grad(out.sin().sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), tensors)
        grads.append((*first, *second))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    with torch.no_grad():
        fused = run(layout, *tensors, is_sorted=bias == "sorted")
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
def test_first_and_second_derivatives(samples):
    layout, tensors = make((0, 3, 8), samples)
    assert gradcheck(lambda *t: run(layout, *t), tensors, fast_mode=True)
    assert gradgradcheck(lambda *t: run(layout, *t), tensors, fast_mode=True)


@pytest.mark.parametrize("grad", [False, True])
def test_dropout_keeps_the_mean_and_is_drawn_for_every_sample(grad):
    layout, tensors = make((0, 9), 1)
    query, key, value = (t.expand(2, -1, -1, -1) for t in tensors[:3])
    with torch.set_grad_enabled(grad):
        expected = run(layout, query, key, value, tensors[3])
        drawn = [
            run(layout, query, key, value, tensors[3], dropout=0.3) for _ in range(2000)
        ]
    drawn = torch.stack(drawn)
    error = (drawn.mean(0) - expected).abs() / (drawn.std(0) / 2000**0.5)
    assert error.max() < 5
    # Samples that are alike are dropped from apart.
    ours, theirs = (drawn - expected)[:, 0], (drawn - expected)[:, 1]
    together = (ours * theirs).mean(0) / (ours.std(0) * theirs.std(0))
    assert together.abs().max() < 0.15


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operator gave."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return out


@BIASES
@pytest.mark.parametrize("step", [32, 10_000])
def test_no_bias_is_repeated_for_the_samples(bias, step, monkeypatch):
    monkeypatch.setattr(dense_windows, "CPU_WINDOWS", step)
    layout = WindowLayout.from_ptr(torch.tensor([0, 700]))
    qkv = torch.randn(3, 8, 700, 2, 4)
    given = None if bias == "none" else torch.randn(layout.num_pairs, 2)
    if bias == "sorted":
        given = WindowBias.from_edges(given, layout)
    with torch.no_grad(), Largest() as largest:
        attention(*qkv, layout, given, backend="dense")
    # Of keys there are 8 × 4 numbers for the 32 of the bias, and some for the edges.
    pairs = 4 * layout.num_windows * 32 * 128 * 2
    assert 0 < largest.bytes <= pairs


@pytest.mark.parametrize("samples", [None, 1, 3])
def test_a_fused_call_ends_with_the_grid(samples, accelerator, monkeypatch):
    layout, tensors = make(samples=samples or 1)
    if samples is None:
        tensors[:3] = [t[0] for t in tensors[:3]]
    expected = run(layout, *tensors, backend="edges")
    matrices = layout.num_windows * (samples or 1) * 2
    sizes = []
    for limit in (10**6, matrices, matrices - 1, 9, 1):
        monkeypatch.setattr(dense_windows, "MAX_GRID", limit)
        with torch.no_grad(), FusedCalls() as calls:
            found = run(layout, *tensors)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        counts = [query.shape[:2].numel() for query in calls.queries]
        assert sum(counts) == matrices
        # A window of every head is never cut.
        assert max(counts) <= max(limit, 2)
        sizes.append(len(counts))
    assert sizes[:2] == [1, 1] and sizes[2] == 2 and sizes[3] > 2
    assert sizes[4] == layout.num_windows * (samples or 1)


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("bias_dtype", [torch.float32, None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("device", ["cpu", "accelerator"])
def test_half_types(dtype, device, bias_dtype, is_sorted, request):
    layout, tensors = make((0, 3, 70), dtype=dtype)
    tensors[3] = tensors[3].detach().to(bias_dtype or dtype).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = one_by_one(layout, *exact)
    tolerance = backends()["dense"].tolerance[dtype]
    if device == "accelerator":
        request.getfixturevalue("accelerator")
    with torch.no_grad(), FusedCalls() as calls:
        fused = run(layout, *tensors, is_sorted=is_sorted)
    kept = dtype if device == "accelerator" else torch.float32
    # A bias that is better than the products is not rounded to their type.
    kept = {kept} if torch.promote_types(kept, tensors[3].dtype) == kept else set()
    assert {q.dtype for q in calls.queries} == kept
    assert {mask.dtype for mask in calls.masks} == kept
    found = run(layout, *tensors, is_sorted=is_sorted)
    for out in (fused, found):
        assert out.dtype == dtype
        assert (out - expected).abs().max() <= tolerance * expected.abs().max()
    weights = torch.randn_like(expected)
    grads = torch.autograd.grad((found * weights).sum(), tensors)
    for grad, other in zip(
        grads, torch.autograd.grad((expected * weights).sum(), exact), strict=True
    ):
        assert (grad - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("constant", [300.0, 7e4, -1e5, -1e9])
@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_bias_is_rounded_to_half_types(dtype, is_sorted, constant, accelerator):
    layout, (*qkv, _) = make((0, 3, 70), dtype=dtype)
    source, target = layout.to_edge_index()
    bias = torch.randn(layout.num_pairs, 2)
    # Of the queries one in three has it everywhere, one in three for every other key.
    everywhere = (target % 3 == 0) & (abs(constant) < 1e6)
    bias[everywhere | ((target % 3 == 1) & (source % 2 == 0))] += constant
    expected = one_by_one(layout, *(t.detach().double() for t in (*qkv, bias)))
    with torch.no_grad():
        found = run(layout, *qkv, bias, is_sorted=is_sorted)
    assert found.dtype == dtype
    # Float32 rounds what is added to a large number, too.
    tolerance = backends()["dense"].tolerance[dtype]
    tolerance += abs(constant) * torch.finfo(torch.float32).eps * bool(everywhere.any())
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_row_without_an_open_key_spoils_no_other(dtype, accelerator):
    layout, (*qkv, _) = make(dtype=dtype)
    bias = torch.randn(layout.num_pairs, 2)
    closed = layout.to_edge_index()[1] == 20
    with torch.no_grad():
        expected = run(layout, *qkv, bias)
        bias[closed] = -torch.inf
        found = run(layout, *qkv, bias)
    others = torch.arange(40) != 20
    assert torch.equal(found[:, others], expected[:, others])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_are_scaled_after_the_last_rounding(dtype, accelerator):
    # The products, 200 to 205, are exact in half types; over the root of 3 they differ
    # by less than bfloat16 can tell.
    layout = WindowLayout.from_ptr(torch.tensor([0, 40]), 4, 8)
    query = torch.ones(40, 1, 3, dtype=dtype).requires_grad_()
    key = torch.zeros(40, 1, 3, dtype=dtype)
    key[..., 0] = torch.randint(200, 206, (40, 1))
    value = torch.randn(40, 1, 5, dtype=dtype)
    with torch.no_grad():
        exact = [t.double() for t in (query, key, value)]
        expected = attention(*exact, layout, backend="edges")
    found = attention(query, key, value, layout, backend="dense")
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < torch.finfo(dtype).eps


class Zeros(TorchDispatchMode):
    """The sizes of all gradients of a gather."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        if "index_add" in str(operator):
            self.sizes.append(out.numel())
        return out


@pytest.mark.parametrize("limits", [(4096, 3), (22, 2), (12, 1), (4, 1)])
@pytest.mark.parametrize("device", ["cpu", "accelerator"])
def test_gradients_of_groups_are_of_their_samples(device, limits, request, monkeypatch):
    most, together = limits
    for name in ("CPU_WINDOWS", "MAX_WINDOWS"):
        monkeypatch.setattr(dense_windows, name, most)
    if device == "accelerator":
        request.getfixturevalue("accelerator")
    layout, tensors = make(bias="none")
    together = 1 if device == "cpu" else together
    loss = run(layout, *tensors).sin().sum()
    with Zeros() as zeros:
        grads = torch.autograd.grad(loss, tensors)
    groups = -(-11 // most) * -(-3 // together)
    assert layout.num_windows == 11
    # One gather of the outputs, which have padding, for all windows.
    assert len(zeros.sizes) == 3 * groups + -(-3 // together)
    each = 40 * 2 * (3 + 3 + 5) * -(-11 // most) + 44 * 2 * 5
    assert sum(zeros.sizes) == 3 * each
    expected = torch.autograd.grad(one_by_one(layout, *tensors).sin().sum(), tensors)
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("device", ["cpu", "accelerator"])
def test_without_channels_the_bias_alone_decides(device, samples, grad, request):
    if device == "accelerator":
        request.getfixturevalue("accelerator")
    layout, (_, _, value, bias) = make(samples=samples or 1)
    query = torch.randn(*value.shape[:3], 0, dtype=value.dtype)
    query.requires_grad_(grad)
    if samples is None:
        query, value = query[0], value[0]
    with torch.set_grad_enabled(grad):
        found = run(layout, query, query, value, bias)
    source, target = layout.to_edge_index()
    logits = torch.full((40, 40, 2), -torch.inf, dtype=value.dtype)
    logits[target, source] = bias.detach()
    expected = torch.einsum("abh,...bhd->...ahd", logits.softmax(1), value)
    torch.testing.assert_close(found, expected)
    if grad:
        found.sum().backward()
        assert bias.grad is not None


@pytest.mark.parametrize("bias", ["edges", "sorted"])
@pytest.mark.parametrize(
    "shape", [((0, 9), 0, 2), ((0,), 2, 2), ((0,), None, 2), ((0, 9), 2, 0)]
)
def test_without_numbers_gradients_are_zero(shape, bias):
    ptr, samples, heads = shape
    layout, tensors = make(ptr, 1 if samples is None else samples, heads=heads)
    leaves = tensors
    if samples is None:
        tensors = [*(t[0] for t in tensors[:3]), tensors[3]]
    found = run(layout, *tensors, is_sorted=bias == "sorted")
    assert found.shape == (*tensors[0].shape[:-1], 5) and found.dtype == torch.float64
    for leaf, grad in zip(
        leaves, torch.autograd.grad(found.sum(), leaves), strict=True
    ):
        assert torch.equal(grad, torch.zeros_like(leaf))


def test_exports_for_any_number_of_samples():
    layout, (*tensors, bias) = make((0, 9, 30), 3)

    class Module(torch.nn.Module):
        def forward(self, query, key, value):
            return run(layout, query, key, value, given_bias, is_sorted=True)

    given, given_bias = tuple(t.detach() for t in tensors), bias.detach()
    dynamic = ({0: torch.export.Dim("samples", min=2, max=64)},) * 3
    program = torch.export.export(Module(), given, dynamic_shapes=dynamic, strict=False)
    for samples in (3, 7):
        _, (*tensors, _) = make((0, 9, 30), samples)
        found = program.module()(*(t.detach() for t in tensors))
        torch.testing.assert_close(found, one_by_one(layout, *tensors, bias))


def test_the_softmax_of_half_types_is_taken_in_float32(accelerator):
    # 4,000 sources of one weight: neither their sum nor their mean fits bfloat16.
    layout = WindowLayout.from_ptr(torch.tensor([0, 4000]), 4000, 4000)
    query, key = torch.zeros(2, 2, 4000, 1, 1, dtype=torch.bfloat16)
    value = torch.full((2, 4000, 1, 1), 100.0, dtype=torch.bfloat16)
    out = attention(query.requires_grad_(), key, value, layout, backend="dense")
    assert out.dtype == torch.bfloat16
    assert (out - 100).abs().max() <= 0.5


def test_transforms_see_the_samples():
    layout, tensors = make((0, 3, 12))
    steps = [torch.randn_like(t) for t in tensors]

    def function(*tensors):
        return run(layout, *tensors)

    _, found = torch.func.jvp(function, tuple(tensors), tuple(steps))
    _, expected = torch.func.jvp(
        lambda *t: one_by_one(layout, *t), tuple(tensors), tuple(steps)
    )
    torch.testing.assert_close(found, expected)
    batch = [torch.stack([t, t.sin()]) for t in tensors[:3]]
    found = torch.vmap(function, in_dims=(0, 0, 0, None))(*batch, tensors[3])
    for i in range(2):
        other = one_by_one(layout, *(t[i] for t in batch), tensors[3])
        torch.testing.assert_close(found[i], other)


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_once_for_all_numbers_of_samples_and_windows(grad):
    count = CompileCounter()
    compiled = torch.compile(run, backend=count, fullgraph=True, dynamic=True)
    # No two sizes of the first are alike, which a trace would take for one.
    for ptr, samples in (((0, 9, 20, 30), 7), ((0, 50), 2), ((0, 8, 41, 77), 5)):
        layout, tensors = make(ptr, samples)
        tensors = [t.detach().requires_grad_(grad) for t in tensors]
        found = compiled(layout, *tensors, is_sorted=True)
        torch.testing.assert_close(found, one_by_one(layout, *tensors))
    assert count.frame_count == 1


@pytest.mark.parametrize("limit, fused", [(48, True), (47, False)])
def test_a_compiled_call_past_the_grid_is_not_fused(limit, fused, monkeypatch):
    monkeypatch.setattr(dense_windows, "MAX_GRID", limit)
    layout, tensors = make((0, 31))
    # As on any device that is no CPU.
    layout, tensors = layout.to("meta"), [t.detach().to("meta") for t in tensors]
    calls = []

    def backend(graph, _):
        calls.append([node.target for node in graph.graph.nodes])
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True)
    assert compiled(layout, *tensors).shape == (3, 31, 2, 5)
    ((*targets,),) = calls
    assert (torch._C._nn.scaled_dot_product_attention in targets) is fused
