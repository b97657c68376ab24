import copy
import io
import pickle

import pytest
import torch
from oracle import (
    BACKENDS,
    BY_BACKEND,
    bias_matrix,
    encode_loop,
    partitions,
)
from torch.autograd import gradcheck, gradgradcheck
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn import Sequential

from pyg_atomenc import AtomAttentionEncoder, TokenLayout

PARTITIONS = partitions()


def make(name="shuffled", dtype=torch.float64, **options):
    index, num_tokens = PARTITIONS[name]
    encoder = AtomAttentionEncoder(7, 4, 2, **options).to(dtype)
    return encoder, torch.randn(index.numel(), 7, dtype=dtype), index, num_tokens


@BY_BACKEND
@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_numpy_loop(backend, name, bias):
    encoder, x, index, num_tokens = make(name, backend=backend, bias=bias)
    if bias:
        for linear in (encoder.lin_query, encoder.lin_key, encoder.lin_value):
            torch.nn.init.normal_(linear.bias)
    tokens, weights = encode_loop(encoder, x, index, num_tokens)
    out, counted = encoder(x, index, dim_size=num_tokens, return_attention_weights=True)
    assert out.shape == (num_tokens, 8) and counted.shape == (len(x), 2)
    torch.testing.assert_close(out, torch.from_numpy(tokens), rtol=0, atol=1e-12)
    torch.testing.assert_close(counted, torch.from_numpy(weights), rtol=0, atol=1e-12)
    layout = TokenLayout.from_index(index, num_tokens)
    assert torch.equal(encoder(x, layout), encoder(x, index, dim_size=num_tokens))


@BY_BACKEND
def test_edge_attr_biases_the_logits_of_its_pair(backend):
    encoder, x, index, num_tokens = make(edge_dim=3, backend=backend)
    layout = TokenLayout.from_index(index, num_tokens)
    edge_attr = torch.randn(layout.num_pairs, 3, dtype=torch.float64)
    bias = bias_matrix(layout, edge_attr @ encoder.lin_edge.weight.T)
    expected, _ = encode_loop(encoder, x, index, num_tokens, bias)
    out = encoder(x, layout, edge_attr=edge_attr)
    torch.testing.assert_close(out, torch.from_numpy(expected), rtol=0, atol=1e-12)
    one = AtomAttentionEncoder(7, edge_dim=1).double()
    assert one(x, layout, edge_attr=edge_attr[:, 0]).shape == (num_tokens, 128)


@BY_BACKEND
def test_derivatives_by_atoms_and_weights(backend):
    encoder, x, index, num_tokens = make("gappy", backend=backend)
    inputs = [x.requires_grad_(), *encoder.parameters()]
    names = [name for name, _ in encoder.named_parameters()]

    def function(x, *weights):
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(
            encoder,
            parameters,
            (x, index),
            {"dim_size": num_tokens, "return_attention_weights": True},
        )

    # In full they stand beside: tests/attention has those of every formula.
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@BY_BACKEND
@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("name", PARTITIONS)
def test_a_sum_is_the_mean_times_the_atoms(name, concat, backend):
    encoder, x, index, num_tokens = make(
        name, reduce="sum", concat=concat, edge_dim=2, backend=backend
    )
    layout = TokenLayout.from_index(index, num_tokens)
    edge_attr = torch.randn(layout.num_pairs, 2, dtype=torch.float64)
    bias = bias_matrix(layout, edge_attr @ encoder.lin_edge.weight.T)
    mean, weights = encode_loop(encoder, x, index, num_tokens, bias)
    sizes = [int((index == token).sum()) for token in range(num_tokens)]
    expected = torch.from_numpy(mean) * torch.tensor(sizes).double()[:, None]
    if not concat:
        expected = expected.view(num_tokens, 2, 4).mean(1)
    options = {"edge_attr": edge_attr, "return_attention_weights": True}
    out, counted = encoder(x, layout, **options)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(counted, torch.from_numpy(weights), rtol=0, atol=1e-12)


@BY_BACKEND
def test_derivatives_of_a_sum(backend):
    encoder, x, index, num_tokens = make("gappy", reduce="sum", backend=backend)

    def function(x):
        return encoder(x, index, dim_size=num_tokens)

    assert gradcheck(function, x.requires_grad_(), fast_mode=True)
    assert gradgradcheck(function, x, fast_mode=True)
    layout = TokenLayout.from_index(index, num_tokens)
    samples = torch.randn(3, *x.shape, dtype=torch.float64)
    found = torch.vmap(lambda x: encoder(x, layout))(samples)
    torch.testing.assert_close(found, torch.stack([function(x) for x in samples]))


# These types do not hold 2,049, and float16 nothing as large as 70,001.
@pytest.mark.parametrize(
    "sizes", [(2049, 301), pytest.param((70_001,), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sum_in_half_precision_knows_every_size(dtype, sizes):
    sizes = torch.tensor(sizes)
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    encoder = AtomAttentionEncoder(4, 2, 1, reduce="sum", bias=True, backend="dense")
    torch.nn.init.zeros_(encoder.lin_query.weight)
    torch.nn.init.zeros_(encoder.lin_value.weight)
    torch.nn.init.constant_(encoder.lin_value.bias, 0.75)
    out = encoder.to(dtype)(torch.randn(len(index), 4).to(dtype), index)
    expected = sizes * 0.75
    assert out.dtype == dtype and out.isfinite().all()
    torch.testing.assert_close(out[:, 0], expected.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("name", PARTITIONS)
def test_backends_agree_on_every_derivative(name):
    encoder, x, index, num_tokens = make(name)
    inputs = [x.requires_grad_(), *encoder.parameters()]
    found = []
    for backend in BACKENDS:
        encoder.backend = backend
        out = encoder(x, index, dim_size=num_tokens)
        first = torch.autograd.grad(
            out.pow(2).sum(), inputs, create_graph=True, materialize_grads=True
        )
        loss = sum(grad.pow(2).sum() for grad in first)
        second = (
            torch.autograd.grad(loss, inputs, materialize_grads=True)
            if loss.requires_grad
            else ()
        )
        found.append((out, *first, *second))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_parameters_and_printing():
    encoder = AtomAttentionEncoder(16)
    assert str(encoder) == "AtomAttentionEncoder(16, 32, heads=4)"
    assert encoder.out_channels == 32
    assert {k: list(v.shape) for k, v in encoder.state_dict().items()} == {
        "lin_query.weight": [128, 16],
        "lin_key.weight": [128, 16],
        "lin_value.weight": [128, 16],
    }
    full = AtomAttentionEncoder(16, 8, 2, bias=True, edge_dim=3)
    assert full.state_dict()["lin_key.bias"].shape == (16,)
    assert full.state_dict()["lin_edge.weight"].shape == (2, 3)
    before = copy.deepcopy(full.state_dict())
    torch.manual_seed(0)
    full.reset_parameters()
    after = full.state_dict()
    assert not torch.equal(before["lin_query.weight"], after["lin_query.weight"])
    assert not torch.equal(before["lin_edge.weight"], after["lin_edge.weight"])


def test_state_dict_does_not_depend_on_the_backend():
    keys = [AtomAttentionEncoder(4, backend=b).state_dict().keys() for b in BACKENDS]
    assert keys[0] == keys[1]


def test_copies_and_pickles():
    encoder, x, index, num_tokens = make()
    expected = encoder(x, index, dim_size=num_tokens)
    other = AtomAttentionEncoder(7, 4, 2).double()
    other.load_state_dict(encoder.state_dict())
    for same in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), other):
        assert torch.equal(same(x, index, dim_size=num_tokens), expected)


def test_lazy_channels():
    lazy = AtomAttentionEncoder(-1, 4, 2, edge_dim=-1)
    copy.deepcopy(lazy)
    layout = TokenLayout.from_index(torch.tensor([0, 0, 1]))
    x, edge_attr = torch.randn(3, 5), torch.randn(5, 6)
    assert lazy(x, layout, edge_attr=edge_attr).shape == (2, 8)
    assert lazy.lin_query.weight.shape == (8, 5)
    loaded = AtomAttentionEncoder(-1, 4, 2, edge_dim=-1)
    loaded.load_state_dict(lazy.state_dict())
    expected = lazy(x, layout, edge_attr=edge_attr)
    assert torch.equal(loaded(x, layout, edge_attr=edge_attr), expected)
    with pytest.raises(ValueError, match=r"'x' needs .*, 5\], found: .*in_channels=4"):
        lazy(torch.randn(3, 4), layout, edge_attr=edge_attr)


@pytest.mark.parametrize("name", PARTITIONS)
def test_tokens_may_be_told_by_pointers_as_aggregations_have_it(name):
    encoder, x, index, num_tokens = make(name)
    layout = TokenLayout.from_index(index.sort().values, num_tokens)
    expected = encoder(x, layout)
    assert torch.equal(encoder(x, None, layout.ptr), expected)
    assert torch.equal(encoder(x, ptr=layout.ptr, dim_size=num_tokens, dim=0), expected)
    assert torch.equal(encoder(x, index.sort().values, None, num_tokens, -2), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_pointers_of_any_integers(dtype):
    encoder, x, index, num_tokens = make("trailing empty")
    layout = TokenLayout.from_index(index.sort().values, num_tokens)
    found = encoder(x, ptr=layout.ptr.to(dtype))
    assert torch.equal(found, encoder(x, layout))


def test_pointers_inside_a_trace():
    encoder, x, index, num_tokens = make(dtype=torch.float32)
    layout = TokenLayout.from_index(index.sort().values, num_tokens)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, ptr=layout.ptr), encoder(x, layout))
    args = ((x,), {"ptr": layout.ptr})
    exported = torch.export.export(encoder, *args).module()
    torch.testing.assert_close(exported(x, ptr=layout.ptr), encoder(x, layout))


def test_heads_may_be_averaged():
    encoder, x, index, num_tokens = make(concat=False)
    joined, *_ = make()
    joined.load_state_dict(encoder.state_dict())
    out = encoder(x, index, dim_size=num_tokens)
    expected = joined(x, index, dim_size=num_tokens).view(num_tokens, 2, 4).mean(1)
    torch.testing.assert_close(out, expected)


def test_inside_pyg_sequential():
    model = Sequential(
        "x, layout",
        [
            (torch.nn.Linear(7, 16), "x -> x"),
            (AtomAttentionEncoder(16), "x, layout -> t"),
            (torch.nn.Linear(128, 2), "t -> t"),
        ],
    )
    _, x, index, num_tokens = make(dtype=torch.float32)
    assert model(x, TokenLayout.from_index(index, num_tokens)).shape == (num_tokens, 2)


@BY_BACKEND
def test_odd_inputs(backend):
    encoder, x, index, num_tokens = make(backend=backend)
    expected = encoder(x, index, dim_size=num_tokens)
    assert torch.equal(encoder(x, index.int(), dim_size=num_tokens), expected)
    strided = x.t().contiguous().t()
    torch.testing.assert_close(encoder(strided, index, dim_size=num_tokens), expected)
    wide = torch.stack([index, index], 1)[:, 0]
    assert torch.equal(encoder(x, wide, dim_size=num_tokens), expected)
    empty = encoder(x[:0], index[:0], dim_size=3)
    assert torch.equal(empty, torch.zeros(3, 8, dtype=x.dtype))
    empty.sum().backward()


@BY_BACKEND
def test_dropout_only_when_training_and_not_in_the_weights(backend):
    encoder, x, index, num_tokens = make(dropout=0.5, backend=backend)
    given = {"dim_size": num_tokens, "return_attention_weights": True}
    dropped, weights = encoder(x, index, **given)
    expected, expected_weights = encoder.eval()(x, index, **given)
    assert not torch.allclose(dropped, expected)
    torch.testing.assert_close(weights, expected_weights)
    assert torch.equal(encoder(x, index, **given)[0], expected)


@BY_BACKEND
def test_autocast(backend):
    encoder, x, index, num_tokens = make("many sizes", torch.float32, backend=backend)
    expected = encoder(x, index, dim_size=num_tokens)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(x, index, dim_size=num_tokens)
    assert out.dtype == torch.bfloat16
    assert (out - expected).abs().max() < 0.03 * expected.abs().max()
    out.float().sum().backward()
    assert x.grad.isfinite().all() and encoder.lin_key.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_atom_weights_are_of_one_type_whatever_the_backend(dtype):
    encoder, x, index, num_tokens = make(dtype=torch.float32)
    found = set()
    for encoder.backend in BACKENDS:
        with torch.autocast("cpu", torch.bfloat16):
            options = {"dim_size": num_tokens, "return_attention_weights": True}
            found.add(encoder(x.to(dtype), index, **options)[1].dtype)
    assert found == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_model(dtype):
    encoder, x, index, num_tokens = make("many sizes", torch.float32)
    expected = encoder(x, index, dim_size=num_tokens)
    out = encoder.to(dtype)(x.to(dtype), index, dim_size=num_tokens)
    assert out.dtype == dtype
    assert (out - expected).abs().max() < 0.05 * expected.abs().max()


def test_compile_with_an_index_or_a_layout():
    encoder, *_ = make(dtype=torch.float32)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    for name in ("shuffled", "gappy", "many sizes"):
        index, num_tokens = PARTITIONS[name]
        x = torch.randn(index.numel(), 7, requires_grad=True)
        layout = TokenLayout.from_index(index, num_tokens)
        expected = encoder(x, layout)
        (grad,) = torch.autograd.grad(expected.pow(2).sum(), x)
        for given in ({"index": index, "dim_size": num_tokens}, {"index": layout}):
            out = compiled(x, **given)
            torch.testing.assert_close(out, expected)
            (found,) = torch.autograd.grad(out.pow(2).sum(), x)
            torch.testing.assert_close(found, grad)


def test_compiled_edges_need_a_layout():
    encoder, x, index, num_tokens = make(dtype=torch.float32, backend="edges")
    layout = TokenLayout.from_index(index, num_tokens)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x, layout), encoder(x, layout))


def test_compiled_graph_still_checks_token_ids():
    encoder, x, index, num_tokens = make(dtype=torch.float32)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    compiled(x, index, dim_size=num_tokens)
    with pytest.raises(ValueError, match="holds token id"):
        compiled(x, index + 1, dim_size=num_tokens)


@pytest.mark.parametrize("give_num_tokens", [False, True])
def test_export_with_dynamic_atoms(give_num_tokens):
    encoder, x, index, num_tokens = make(dtype=torch.float32)
    atoms = torch.export.Dim("atoms", min=2)
    shapes = {"x": {0: atoms}, "index": {0: atoms}}
    rest = {}
    if give_num_tokens:
        shapes["dim_size"] = None
        rest["dim_size"] = num_tokens
    program = torch.export.export(encoder, (x, index), rest, dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    exported = torch.export.load(buffer).module()
    for size in (3, 50):
        x, index = torch.randn(size, 7), torch.randint(0, num_tokens, (size,))
        torch.testing.assert_close(
            exported(x, index, **rest), encoder(x, index, **rest)
        )


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_export_with_a_layout(dynamic):
    encoder, *_ = make(dtype=torch.float32)
    # Tokens of one size, which the dense backend takes in one chunk.
    layout = TokenLayout.from_index(torch.tensor([0, 0, 1, 1, 2, 2]))
    x = torch.randn(6, 7)
    shapes = None
    if dynamic:
        shapes = torch.export.ShapesCollection()
        for tensor in (x, *pytree.tree_leaves(layout)):
            shapes[tensor] = {0: torch.export.Dim.AUTO}
    module = torch.export.export(encoder, (x, layout), dynamic_shapes=shapes).module()
    torch.testing.assert_close(module(x, layout), encoder(x, layout))
    for name in ("many sizes", "gappy") if dynamic else ():
        index, num_tokens = PARTITIONS[name]
        x, layout = (
            torch.randn(len(index), 7),
            TokenLayout.from_index(index, num_tokens),
        )
        torch.testing.assert_close(module(x, layout), encoder(x, layout))


def test_the_encoder_is_no_message_passing_module_for_explainers():
    from torch_geometric.nn import MessagePassing

    encoder = AtomAttentionEncoder(4, backend="edges")
    assert not any(isinstance(m, MessagePassing) for m in encoder.modules())


LAYOUT = TokenLayout.from_index(torch.tensor([0, 0, 1]))
X = torch.zeros(3, 4)
BAD_CALLS = {
    "list": (([[1.0]], LAYOUT), {}, r"'x' needs the shape .*found: list"),
    "vector": (
        (torch.zeros(3), LAYOUT),
        {},
        r"'x' needs the shape \[num_atoms, in_channels\], found: \[3\]",
    ),
    "integers": ((X.long(), LAYOUT), {}, r"'x' is of type torch.int64.*Embedding"),
    "double": ((X.double(), LAYOUT), {}, r"'x' is of type torch.float64.*float32"),
    "channels": (
        (X[:, :3], LAYOUT),
        {},
        r"'x' needs .*, 4\], found: .* 3\]; .*in_channels=3",
    ),
    "lengths": ((X[:2], LAYOUT), {}, r"'x' has 2 atoms, but 'index' 3"),
    "other device": (
        (X, LAYOUT.to("meta")),
        {},
        r"'x' is on cpu, but 'layout' on meta",
    ),
    "both": (
        (X, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 3])),
        {},
        "'index' and 'ptr' are both there and tell other tokens",
    ),
    "a layout and pointers": (
        (X, LAYOUT, torch.tensor([0, 2, 3])),
        {},
        "'index' and 'ptr' are both there",
    ),
    "count of pointers": (
        (X, None, torch.tensor([0, 2, 3]), 5),
        {},
        "'dim_size' is 5: choose one of None, 2",
    ),
    "short pointers": (
        (X, None, torch.tensor([0, 2])),
        {},
        "'ptr' goes from 0 to 2.* for 3 atoms",
    ),
    "falling pointers": (
        (X, None, torch.tensor([0, 4, 3])),
        {},
        "or falls, for 3 atoms",
    ),
    "float pointers": ((X, None, torch.zeros(2)), {}, "'ptr' is of type torch.float32"),
    "dimension": ((X, LAYOUT), {"dim": -1}, "'dim' is -1"),
    "layout count": (
        (X, LAYOUT),
        {"dim_size": 5},
        r"'dim_size' is 5, but the layout has 2",
    ),
    "float ids": ((X, torch.zeros(3)), {}, r"'index' is of type torch.float32"),
    "small count": (
        (X, torch.tensor([0, 1, 2])),
        {"dim_size": 2},
        r"'dim_size' is 2: pass dim_size >= 3",
    ),
    "no edge_dim": (
        (X, LAYOUT),
        {"edge_attr": X},
        r"'edge_attr' was passed.*edge_dim",
    ),
    "batch": (
        (X, torch.tensor([0, 1, 0])),
        {"batch": torch.tensor([0, 0, 1])},
        r"graphs 0 and 1 of 'batch' into token 0.*AtomTokenData",
    ),
    "batch of a layout": (
        (X, LAYOUT),
        {"batch": torch.tensor([0, 1, 1])},
        r"graphs 0 and 1 of 'batch' into token 0",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    args, kwargs, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        AtomAttentionEncoder(4)(*args, **kwargs)


@pytest.mark.parametrize(
    "edge_attr, message",
    [
        (None, "'edge_attr' is missing"),
        (torch.zeros(5, 2), r"\[num_edges, 3\].*\[5, 2\]"),
        (torch.zeros(5, 3).long(), "torch.int64"),
        (torch.zeros(4, 3), "'edge_attr' has 4 rows for 5 edges"),
    ],
)
def test_bad_edge_attr(edge_attr, message):
    with pytest.raises(ValueError, match=message):
        AtomAttentionEncoder(4, edge_dim=3)(X, LAYOUT, edge_attr=edge_attr)


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        ((0,), {}, "'in_channels' is 0"),
        ((-2,), {}, "'in_channels' is -2"),
        ((4, 0), {}, "'out_channels' is 0"),
        ((4, 8, -1), {}, "'heads' is -1"),
        ((4, 8.0), {}, "'out_channels' is 8.0"),
        ((4,), {"edge_dim": 0}, "'edge_dim' is 0"),
        ((4,), {"dropout": 1.5}, "'dropout' is 1.5"),
        ((4,), {"reduce": "max"}, "'reduce' is 'max': choose one of 'mean', 'sum'"),
        ((4,), {"backend": "cuda"}, "'backend' is 'cuda': choose one of"),
    ],
)
def test_bad_options(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        AtomAttentionEncoder(*args, **kwargs)


def test_edges_named_in_a_trace_of_an_index_says_why_not():
    encoder, x, index, num_tokens = make(dtype=torch.float32, backend="edges")
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    with pytest.raises(Exception, match="number of edges depends on the token sizes"):
        compiled(x, index, dim_size=num_tokens)


@BY_BACKEND
def test_given_a_layout_no_value_is_read_back(backend):
    """What reads a value back, such as `.item()`, would wait for a GPU."""
    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    encoder = AtomAttentionEncoder(4, 3, 2, backend=backend)
    layout = TokenLayout.from_index(torch.tensor([2, 0, 0, 1, 0, 2]), 4)
    x = torch.randn(6, 4, requires_grad=True)
    with Record():
        encoder(x, layout).sum().backward()
    aten = torch.ops.aten
    waiting = {
        aten._local_scalar_dense.default,
        aten.nonzero.default,
        aten.masked_select.default,
        aten._unique2.default,
    }
    assert len(seen) > 10 and not waiting & set(seen)
