"""The Triton kernels equal the edges in float64.

On a GPU they are compiled; elsewhere Triton's interpreter runs them, slowly.
"""

import inspect
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.library import opcheck

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.attention import (
    TokenLayout,
    WindowLayout,
    attention,
    attention_encode,
    attention_pool,
    backends,
)
from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.dispatch import choose_backend
from pyg_atomenc.attention.inputs import AttentionInputs, EncodeInputs
from pyg_atomenc.attention.triton import backend, operators
from pyg_atomenc.attention.triton.launch import Launch
from pyg_atomenc.errors import BackendError

tl = pytest.importorskip("triton.language", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A token at, below and above every size at which something changes, and empty ones.
SIZES = (1, 2, 15, 16, 0, 17, 33, 64, 65, 0, 300)
SOME = (1, 16, 0, 33, 130)
FEW = (3, 0, 17, 1, 66)


@pytest.fixture(autouse=True)
def _poison():
    """Memory that no kernel wrote is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _patched_once(monkeypatch):
    """The interpreter patches Triton's language at every call of a helper: half its
    time. Here it leaves out what a caller did already."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    if not hasattr(interpreter, "_patch_lang"):
        return
    patch, patched, scopes = interpreter._patch_lang, set(), []

    def once(function):
        found = {
            value.__name__
            for value in function.__globals__.values()
            if inspect.ismodule(value) and value in (tl, tl.core)
        }
        if not found <= patched:
            patched.update(found)
            scopes.append(patch(function))
        return SimpleNamespace(restore=restore)

    def restore():
        patched.clear()
        while scopes:
            scopes.pop().restore()

    monkeypatch.setattr(interpreter, "_patch_lang", once)


class Case:
    """Inputs, and the same in float64."""

    def __init__(
        self, sizes=SIZES, dtype=torch.float32, heads=2, d=8, width=None,
        value_heads=None, bias=True,
    ):  # fmt: skip
        sizes = torch.tensor(sizes, dtype=torch.long)
        index = torch.arange(len(sizes)).repeat_interleave(sizes)
        index = index[torch.randperm(len(index))].to(DEVICE)
        self.layout = TokenLayout.from_index(index, len(sizes))
        count = len(index)
        shapes = [(count, heads, d)] * 2 + [(count, value_heads or heads, width or d)]
        if bias:
            shapes.append((self.layout.num_pairs, heads))
        self.tensors = [torch.randn(shape, device=DEVICE) for shape in shapes]
        self.tensors = [t.to(dtype).requires_grad_() for t in self.tensors]
        self.exact = [t.detach().double().requires_grad_() for t in self.tensors]
        self.tolerance = backends()["triton"].tolerance[dtype]

    def run(self, pool, name="triton", tensors=None):
        tensors = tensors or self.tensors
        if pool:
            return attention_pool(*tensors[:3], self.layout, *tensors[3:], backend=name)
        return (attention(*tensors[:3], self.layout, *tensors[3:], backend=name),)

    def expected(self, pool):
        return self.run(pool, "edges", self.exact)

    def agrees(self, found, expected):
        for one, other in zip(found, expected, strict=True):
            gap = (one.double() - other).abs().max() / other.abs().max().clamp(1e-30)
            assert gap <= self.tolerance


def loss(outputs):
    """A number that depends on every output differently."""
    return sum(
        (out * torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape)).sum()
        for out in outputs
    )


def gradients(outputs, tensors, **options):
    return torch.autograd.grad(loss([o.double() for o in outputs]), tensors, **options)


CASES = {
    "float32": {},
    "large tokens alone": {"sizes": (70, 129), "value_heads": 1},
    "no bias": {"sizes": SOME, "bias": False, "d": 24, "width": 5},
    "bfloat16": {"dtype": torch.bfloat16, "d": 32},
    "float16": {"sizes": SOME, "dtype": torch.float16, "value_heads": 1, "width": 3},
    "wide": {"sizes": FEW, "d": 64, "width": 17, "heads": 1},
    "wider": {"sizes": FEW, "d": 3, "width": 100, "heads": 3, "bias": False},
    "widest": {"sizes": FEW, "d": 130, "heads": 1, "dtype": torch.bfloat16},
    "one channel": {"sizes": FEW, "d": 1, "heads": 5},
    "four heads": {"sizes": SOME, "heads": 4, "d": 32, "dtype": torch.bfloat16},
    "heads of several programs": {"sizes": FEW, "heads": 12, "value_heads": 1},
    "two heads a program": {"sizes": FEW, "heads": 6, "dtype": torch.float16},
}


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_edges_in_float64(name, pool):
    case = Case(**CASES[name])
    found, expected = case.run(pool), case.expected(pool)
    dtypes = [case.tensors[0].dtype, torch.float32]
    assert [out.dtype for out in found] == dtypes[: 1 + pool]
    case.agrees(found, expected)
    case.agrees(gradients(found, case.tensors), gradients(expected, case.exact))
    if pool:
        assert (found[0][case.layout.sizes == 0] == 0).all()


@pytest.mark.parametrize("pool", [False, True])
def test_second_gradients_are_those_of_the_dense_path(pool):
    case = Case(FEW)
    found, expected = case.run(pool), case.expected(pool)
    seconds = []
    for outputs, tensors in ((found, case.tensors), (expected, case.exact)):
        first = gradients([o.pow(2) for o in outputs], tensors, create_graph=True)
        seconds.append(gradients([g.pow(2) for g in first], tensors))
    case.agrees(*seconds)


def surrounded(tensor):
    """The same numbers, in the middle of a memory full of NaN."""
    rows, heads, channels = tensor.shape
    shape = (rows + 9, heads + 2, channels + 8)
    memory = torch.full(shape, torch.nan, device=DEVICE, dtype=tensor.dtype)
    inner = memory[4:-5, 1:-1, :-8]
    inner.copy_(tensor.detach())
    return inner.requires_grad_()


@pytest.mark.parametrize("pool", [False, True])
def test_nan_around_the_inputs_reaches_nothing(pool):
    case = Case(FEW, d=5, width=3)
    plain = case.run(pool)
    expected = [*plain, *gradients(plain, case.tensors)]
    tensors = [surrounded(t) for t in case.tensors[:3]]
    pairs = torch.full((case.layout.num_pairs + 4, 2), torch.nan, device=DEVICE)
    pairs[2:-2] = case.tensors[3].detach()
    tensors.append(pairs[2:-2].requires_grad_())
    outputs = case.run(pool, tensors=tensors)
    found = [*outputs, *gradients(outputs, tensors)]
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


@pytest.mark.parametrize("pool", [False, True])
def test_nan_of_a_token_stays_in_it(pool):
    case = Case((3, 17, 5, 66, 100), bias=False)
    index = case.layout.atom_to_token
    for token in (1, 3):
        tensors = [t.detach().clone() for t in case.tensors]
        for tensor in tensors:
            tensor[index == token] = torch.nan
            tensor.requires_grad_()
        outputs = case.run(pool, tensors=tensors)
        grads = gradients(outputs, tensors)
        for rows in (*outputs[pool:], *grads):
            assert rows[index != token].isfinite().all()
            assert rows[index == token].isnan().all()
        if pool:
            assert outputs[0].flatten(1).isnan().all(1).tolist() == [
                t == token for t in range(5)
            ]


@pytest.mark.parametrize("pool", [False, True])
def test_runs_repeat_bit_by_bit(pool):
    case = Case(FEW)
    first, second = (case.run(pool) for _ in range(2))
    first = [*first, *gradients(first, case.tensors)]
    second = [*second, *gradients(second, case.tensors)]
    assert all(map(torch.equal, first, second))


def test_extreme_and_closed_logits():
    case = Case(FEW)
    # Of logits about 1e4, float32 keeps three decimals.
    case.tolerance = 1e-3
    query, _, _, bias = case.tensors
    with torch.no_grad():
        query *= 1e4
        bias[::7] = -torch.inf
        # No atom is without any other to attend to.
        source, target = case.layout.to_edge_index()
        bias[source == target] = 0
    case.exact = [t.detach().double().requires_grad_() for t in case.tensors]
    for pool in (False, True):
        case.agrees(case.run(pool), case.expected(pool))


@pytest.mark.parametrize("pool", [False, True])
def test_the_lowest_number_as_a_bias_is_no_infinity(pool):
    case = Case(FEW)
    lowest = torch.finfo(torch.float32).min
    source, target = case.layout.to_edge_index()
    with torch.no_grad():
        # One atom of every token attends to some; the next to all alike.
        case.tensors[3][(target % 5 == 1) & (source != target)] = lowest
        case.tensors[3][target % 5 == 2] = lowest
    # In float32, whose lowest number swallows what is added to it.
    tensors = [t.detach().requires_grad_() for t in case.tensors]
    found, expected = case.run(pool), case.run(pool, "edges", tensors)
    assert all(out.isfinite().all() for out in expected)
    case.agrees(found, expected)
    case.agrees(gradients(found, case.tensors), gradients(expected, tensors))


def test_an_infinite_key_gets_no_attention():
    case = Case((3, 17, 5, 66))
    positive, key, *others = (t.detach() for t in case.tensors)
    positive = positive.abs() + 0.1
    first = case.layout.perm[case.layout.ptr[:-1]]
    key[first] = -torch.inf
    tensors = [positive, key, *others]
    case.exact = [t.double() for t in tensors]
    found, expected = case.run(True, tensors=tensors), case.expected(True)
    assert (expected[1][first] == 0).all()
    case.agrees(found, expected)


def test_a_launch_of_more_items_than_32_bits_count():
    case = Case((3,), heads=4, bias=False)
    query, key, value = (t.detach() for t in case.tensors)
    context = OperatorContext.from_layout(case.layout, 0.0)
    call = operators.KernelCall((query, key, value, None), context, pool=False)
    out = torch.empty_like(value)
    (launch,) = call.forward(out)
    # The first programs alone, of as many as there would be with 2**30 tokens.
    launch = replace(launch, arguments={**launch.arguments, "count": 2**30})
    launch.submit(query.device)
    case.agrees((out,), case.expected(False))


@pytest.mark.parametrize("pool", [False, True])
def test_tangents_of_forward_mode(pool):
    case = Case((3, 0, 5))
    values = [t.detach() for t in case.tensors]
    direction = torch.randn_like(values[0])
    with forward_ad.dual_level():
        query = forward_ad.make_dual(values[0], direction)
        out = case.run(pool, tensors=[query, *values[1:]])[0]
        tangent = forward_ad.unpack_dual(out).tangent
    (grad,) = gradients(case.run(pool)[:1], case.tensors[:1])
    expected = loss([tangent.double()])
    torch.testing.assert_close(
        (grad.double() * direction).sum(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("pool", [False, True])
def test_only_asked_gradients_are_computed(pool, monkeypatch):
    case, launches, needs = Case((3, 65), heads=1), [], []
    submit, name = Launch.submit, "POOL" if pool else "ATTEND"
    formulas = getattr(operators.dense, name)

    def note_launch(launch, device):
        launches.append(launch)
        submit(launch, device)

    def note_needs(tensors, context, outputs, needed):
        needs.append(list(needed))
        return formulas.backward(tensors, context, outputs, needed)

    monkeypatch.setattr(Launch, "submit", note_launch)
    spied = replace(formulas, backward=note_needs)
    monkeypatch.setattr(operators.dense, name, spied)
    exact = case.expected(pool)
    for i in range(4):
        for j, tensor in enumerate(case.tensors):
            tensor.requires_grad_(i == j)
        found = gradients(case.run(pool), case.tensors[i])
        case.agrees(found, gradients(exact, case.exact[i], retain_graph=True))
        assert [launch.kernel for launch in launches] == [
            "attention_forward", "attention_backward",
        ]  # fmt: skip
        asked = [
            launches[1].arguments[f"grad_{name}"] is not None
            for name in ("query", "key", "value", "bias")
        ]
        assert asked == [i == j for j in range(4)]
        assert needs == [asked]
        launches.clear()
        needs.clear()


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone(used):
    case = Case(FEW, bias=False)
    found, expected = case.run(True), case.expected(True)
    case.agrees(found, expected)
    one, other = (
        gradients(outputs[used : used + 1], tensors[: 3 - used])
        for outputs, tensors in ((found, case.tensors), (expected, case.exact))
    )
    # Atom weights do not depend on the values.
    assert len(one) == 3 - used
    case.agrees(one, other)
    if used:
        found = gradients(case.run(True)[1:], case.tensors[2], allow_unused=True)[0]
        assert found is None or (found == 0).all()


@pytest.mark.parametrize("sizes", [(), (0, 0)])
def test_no_atoms(sizes):
    case = Case(sizes)
    tokens, weights = case.run(True)
    assert tokens.shape == (len(sizes), 2, 8) and (tokens == 0).all()
    assert weights.shape == (0, 2)
    (out,) = case.run(False)
    assert out.shape == (0, 2, 8)
    assert all(g.numel() == 0 for g in gradients([tokens, out], case.tensors))


def test_inputs_whose_channels_are_not_neighbours():
    case = Case(FEW)
    tensors = [
        t.detach().movedim(0, 2).contiguous().movedim(2, 0) for t in case.tensors[:3]
    ]
    assert tensors[0].stride(2) != 1
    found = case.run(True, tensors=[*tensors, case.tensors[3]])
    assert all(map(torch.equal, found, case.run(True)))


def test_operators_keep_their_promises():
    case = Case((3, 0, 2, 66), d=3)
    flat = OperatorContext.from_layout(case.layout, 0.0)
    ops = torch.ops.pyg_atomenc
    values = [t.detach() for t in case.tensors]
    out, tokens = (torch.randn(n, 2, 3, device=DEVICE) for n in (71, 4))
    weights = torch.randn(71, 2, device=DEVICE)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(ops.attend_triton.default, (*case.tensors, *flat), test_utils=checks)
    opcheck(ops.attend_pool_triton.default, (*case.tensors, *flat), test_utils=checks)
    opcheck(
        ops.attend_triton_backward.default,
        (*values, out, *flat, [True] * 4),
        test_utils=checks,
    )
    opcheck(
        ops.attend_pool_triton_backward.default,
        (*values, tokens, weights, *flat, [True] * 4),
        test_utils=checks,
    )
    packed = torch.stack(values[:3], 1)
    opcheck(
        ops.attend_pool_packed_triton.default,
        (packed.requires_grad_(), case.tensors[3], *flat),
        test_utils=checks,
    )


def test_compiles_whole_and_for_any_number_of_atoms():
    compiled = torch.compile(
        lambda case, *tensors: case.run(True, tensors=tensors),
        fullgraph=True,
        dynamic=True,
        backend="inductor" if DEVICE == "cuda" else "aot_eager",
    )
    for sizes in ((3, 17, 1), (2, 2, 66, 5)):
        case = Case(sizes)
        found = compiled(case, *case.tensors)
        plain = case.run(True)
        assert all(map(torch.equal, found, plain))
        assert all(
            map(
                torch.equal,
                gradients(found, case.tensors),
                gradients(plain, case.tensors),
            )
        )


def test_compiles_with_the_layout_inside():
    def run(index, query, key, value):
        layout = TokenLayout.from_index(index, 4)
        return attention_pool(query, key, value, layout, backend="triton")[0]

    case = Case((3, 17, 0, 70), bias=False)
    arguments = (case.layout.atom_to_token, *case.tensors)
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(*arguments)
    assert torch.equal(found, run(*arguments))


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_after_inference_mode_with_the_same_layout(pool):
    case = Case((3, 66, 90))
    with torch.inference_mode():
        case.run(pool)
    found, expected = case.run(pool), case.expected(pool)
    case.agrees(found, expected)
    case.agrees(gradients(found, case.tensors), gradients(expected, case.exact))


def test_autocast_changes_nothing():
    case = Case(FEW)
    expected = case.run(True)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = case.run(True)
        assert all(map(torch.equal, found, expected))
        assert found[0].dtype == torch.float32


def test_transforms_of_torch_func_take_the_dense_path():
    case = Case((3, 0, 5))
    _, *others = (t.detach() for t in case.tensors)
    expected = gradients(case.run(False), case.tensors[:1])[0]

    def scalar(query):
        return loss(case.run(False, tensors=[query, *others]))

    query = case.tensors[0].detach()
    torch.testing.assert_close(torch.func.grad(scalar)(query), expected)
    batched = torch.vmap(scalar)(torch.stack([query, 2 * query]))
    torch.testing.assert_close(batched[0], scalar(query))


@pytest.mark.parametrize("bias", [False, True])
def test_the_encoder_projects_once(bias, monkeypatch):
    case, seen = Case((5, 0, 17, 70), bias=False), []
    linear = torch.nn.functional.linear
    # So many features of a pair go through the module's own function.
    encoder = AtomAttentionEncoder(6, 8, 2, bias=bias, edge_dim=17, backend="triton")
    encoder = encoder.to(DEVICE)
    x = torch.randn(case.layout.num_atoms, 6, device=DEVICE, requires_grad=True)
    pairs = torch.randn(case.layout.num_pairs, 17, device=DEVICE)
    leaves = [x, *encoder.parameters()]

    def run(name):
        encoder.backend = name
        found = encoder(x, case.layout, edge_attr=pairs, return_attention_weights=True)
        return [*found, *torch.autograd.grad(loss(found), leaves)]

    def count(x, weight, *others):
        seen.append(weight.size(0))
        return linear(x, weight, *others)

    expected = run("dense")
    monkeypatch.setattr(torch.nn.functional, "linear", count)
    for one, other in zip(run("triton"), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert sorted(seen) == [2, 3 * 2 * 8]


@pytest.mark.parametrize("name", ["triton", "dense", "edges"])
def test_encode_gives_the_type_of_the_weights_under_autocast(name):
    case = Case(FEW, bias=False)
    x = torch.randn(case.layout.num_atoms, 6, device=DEVICE)
    weights = tuple(torch.randn(2, 8, 6, device=DEVICE) for _ in range(3))
    expected = attention_encode(x, weights, case.layout, backend=name)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = attention_encode(x, weights, case.layout, backend=name)
        half = attention_encode(
            x, [w.bfloat16() for w in weights], case.layout, backend=name
        )
    assert [out.dtype for out in (*found, *half)] == [
        torch.float32, torch.float32, torch.bfloat16, torch.float32,
    ]  # fmt: skip
    assert all(map(torch.equal, found, expected))
    gap = (half[0].float() - expected[0]).abs().max()
    assert gap < 3e-2 * expected[0].abs().max()


# Who may use it


def inputs(dtype=torch.float32, channels=4, device=None, layout=None, **options):
    device = device or DEVICE
    index = torch.tensor([0, 0, 1], device=device)
    tensor = torch.zeros(3, 2, channels, dtype=dtype, device=device)
    layout = layout or TokenLayout.from_index(index, 2)
    return AttentionInputs(tensor, tensor, tensor, layout, **options)


REASONS = {
    "float64": ({"dtype": torch.float64}, "the type is torch.float64"),
    "wide": ({"channels": 129}, "a head has 129 channels, but it takes 1 to 128"),
    "nothing": ({"channels": 0}, "a head has 0 channels"),
    "dropout": ({"dropout": 0.1}, "'dropout' is not 0"),
    "windows": (
        {"layout": WindowLayout.from_batch(torch.tensor([0, 3]).to(DEVICE))},
        "it does not attend over windows, for which take 'dense'",
    ),
}


def test_says_which_width_it_cannot_take():
    x = torch.zeros(3, 2, 0, device=DEVICE)
    value = torch.zeros(3, 2, 5, device=DEVICE)
    with pytest.raises(BackendError, match="a head has 0 channels, but it takes 1 to"):
        choose_backend("triton", replace(inputs(), query=x, key=x, value=value))


@pytest.fixture
def auto_on_a_gpu(monkeypatch):
    """As if this machine had a GPU."""
    monkeypatch.setattr(backend, "DEVICE", "cpu")
    monkeypatch.setattr(backend, "_hindrances", lambda device, index: ())
    monkeypatch.setattr(backend, "is_interpreted", lambda: False)


@pytest.mark.parametrize("name", REASONS)
def test_says_what_it_cannot_do(name, auto_on_a_gpu):
    changes, message = REASONS[name]
    with pytest.raises(BackendError, match=f"'triton': {message}"):
        choose_backend("triton", inputs(**changes))
    assert choose_backend("auto", inputs(**changes)).name == "dense"
    assert choose_backend("auto", inputs()).name == "triton"


def test_says_what_the_machine_lacks(monkeypatch):
    def of_gpu():
        backend._hindrances_of_gpu.cache_clear()
        return backend._hindrances("cuda", 0)[0]

    monkeypatch.setattr(backend, "is_interpreted", lambda: False)
    with pytest.raises(BackendError, match="'triton': the tensors are on 'cpu'"):
        choose_backend("triton", inputs(device="cpu"))
    assert choose_backend("auto", inputs(device="cpu")).name == "dense"
    monkeypatch.setattr(backend, "import_module", lambda name: MagicMock())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    assert "compute capability 7.5" in of_gpu()
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert "AMD" in of_gpu()
    monkeypatch.setattr(backend, "HAS_TRITON", False)
    assert "pip install -e '.[triton]'" in of_gpu()
    backend._hindrances_of_gpu.cache_clear()


def test_auto_takes_it_on_a_gpu_but_never_the_interpreter(auto_on_a_gpu, monkeypatch):
    assert choose_backend("auto", inputs()).name == "triton"
    assert choose_backend("auto", inputs(dropout=0.1)).name == "dense"
    wide = [torch.zeros(3, 2, 300, device=DEVICE) for _ in range(3)]
    wide = dict(zip(("query", "key", "value"), wide, strict=True))
    assert choose_backend("auto", replace(inputs(), **wide)).name == "dense"
    monkeypatch.setattr(backend, "is_interpreted", lambda: True)
    assert choose_backend("auto", inputs()).name == "dense"
    assert choose_backend("triton", inputs()).name == "triton"


# Sizes of tokens, how often they come, and what takes them in float32 and bfloat16,
# whose kernels take up to 32 and 64 atoms.
MIXES = [
    ([9, 32, 0, 1], 2, "triton", "triton"),
    ([9, 33], 2, "dense", "triton"),
    ([9, 40], 1000, "dense", "triton"),
    ([9, 30, 33], 1000, "triton", "triton"),
    ([9, 65], 2, "dense", "dense"),
    ([300], 200, "dense", "dense"),
    ([], 1, "triton", "triton"),
]


@pytest.mark.parametrize(("sizes", "times", "single", "half"), MIXES)
def test_auto_leaves_large_tokens_to_dense(sizes, times, single, half, auto_on_a_gpu):
    index = torch.arange(len(sizes) * times)
    index = index.repeat_interleave(torch.tensor(sizes * times, dtype=torch.long))
    layout = TokenLayout.from_index(index, len(sizes) * times)
    for dtype, name in ((torch.float32, single), (torch.bfloat16, half)):
        x = torch.zeros(len(index), 2, 4, dtype=dtype)
        assert choose_backend("auto", AttentionInputs(x, x, x, layout)).name == name
        weights = (torch.zeros(2, 4, 3, dtype=dtype),) * 3
        given = EncodeInputs(torch.zeros(len(index), 3, dtype=dtype), weights, layout)
        assert choose_backend("auto", given).name == name


def test_auto_takes_it_in_a_trace_that_knows_no_sizes(auto_on_a_gpu):
    x, index = torch.randn(70, 3, 8), torch.zeros(70, dtype=torch.long)
    seen = []

    def run(x, index):
        layout = TokenLayout.from_index(index, 1)
        seen.append(choose_backend("auto", AttentionInputs(x, x, x, layout)).name)
        return x

    torch.compile(run, backend="eager")(x, index)
    assert seen == ["triton"]


def test_auto_of_fake_tensors_of_a_gpu_that_is_not_there(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.setattr(backend, "is_interpreted", lambda: False)
    backend._hindrances_of_gpu.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        index = torch.zeros(3, dtype=torch.long, device="cuda")
        x = torch.zeros(3, 2, 4, device="cuda")
        found = attention(x, x, x, TokenLayout.from_index(index, 2))
    assert found.shape == (3, 2, 4) and found.device.type == "cuda"
    backend._hindrances_of_gpu.cache_clear()


def test_without_a_compiler_it_says_so_and_auto_is_dense(monkeypatch):
    def fail(name):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(backend, "is_interpreted", lambda: False)
    monkeypatch.setattr(backend, "HAS_TRITON", True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(backend, "import_module", fail)
    backend._hindrances_of_gpu.cache_clear()
    (reason,) = backend._hindrances("cuda", 0)
    backend._hindrances_of_gpu.cache_clear()
    assert "Failed to find C compiler" in reason and "gcc" in reason
    monkeypatch.setattr(backend, "DEVICE", "cpu")
    monkeypatch.setattr(backend, "_hindrances", lambda device, index: (reason,))
    assert choose_backend("auto", inputs()).name == "dense"


def test_heads_that_lie_farther_apart_than_32_bits_count():
    x = torch.empty_strided((2, 3, 16), (16, 2**30, 1), dtype=torch.float16)
    x.copy_(torch.randn(2, 3, 16))
    layout = TokenLayout.from_index(torch.tensor([0, 0]))
    found = attention(x, x, x, layout, backend="triton")
    near = x.contiguous()
    assert torch.equal(found, attention(near, near, near, layout, backend="triton"))


@pytest.mark.parametrize("sizes", [(3, 2), (66, 2)])
def test_a_bias_of_the_wrong_length_for_a_layout_of_a_trace(sizes):
    case = Case(sizes)
    pairs = case.layout.num_pairs
    case.layout = replace(case.layout, num_pairs=None)
    case.tensors[3] = torch.zeros(pairs - 1, 2, device=DEVICE)
    message = f"'bias' has {pairs - 1} rows for {pairs} pairs of atoms"
    with pytest.raises(ValueError, match=message):
        case.run(True)
