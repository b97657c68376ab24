"""torch.compile and CUDA graphs, whose layouts change from batch to batch."""

import pytest
import torch
from gpu_cases import Case, check_close, draw_index, draw_layout
from torch._dynamo.testing import CompileCounterWithBackend

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.attention import TokenLayout

# Of equal numbers of atoms, tokens and pairs, but not of atoms in a token.
EQUAL = ((0, 40, 50, 5, 129), (5, 10, 129, 20, 60))
UNEQUAL = ((1,) * 8 + (253, 0), (20,) * 10 + (61,), (64, 65, 66, 66))


def run(encoder, x, layout):
    """Tokens and gradients, on the CPU in float64."""
    leaves = [x, *encoder.parameters()]
    tokens = encoder(x, layout)
    weights = torch.linspace(-1, 1, tokens.numel(), device=x.device)
    loss = (tokens.double() * weights.view(tokens.shape)).sum()
    grads = torch.autograd.grad(loss, leaves)
    return [t.detach().double().cpu() for t in (tokens, *grads)]


def make(backend, device):
    encoder = AtomAttentionEncoder(32, 16, 4, backend=backend).to(device)
    plain = AtomAttentionEncoder(32, 16, 4, backend="dense").to(device)
    plain.load_state_dict(encoder.state_dict())
    return encoder, plain


def draw(sizes, device):
    layout = draw_layout(sizes, device)
    x = torch.randn(layout.num_atoms, 32, device=device, requires_grad=True)
    return x, layout


def test_operators_are_not_recorded():
    if not hasattr(torch.Tag, "cudagraph_unsafe"):
        pytest.skip("this version of torch records no graph with tensors on the CPU")
    operators = torch.ops.pyg_atomenc
    for name in ("sort_atoms", "encode", "attend", "attend_pool_triton", "encode"):
        assert torch.Tag.cudagraph_unsafe in getattr(operators, name).default.tags
    backward = operators.attend_pool_packed_triton_backward.default
    assert torch.Tag.cudagraph_unsafe in backward.tags


@pytest.mark.parametrize("backend", ["dense", "triton"])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_layouts_of_equal_shapes_in_turn(mode, backend, cuda):
    encoder, plain = make(backend, cuda)
    compiled = torch.compile(encoder, fullgraph=True, mode=mode)
    batches = [draw(sizes, cuda) for sizes in EQUAL]
    for x, layout in batches * 4:
        torch.compiler.cudagraph_mark_step_begin()
        check_close(run(compiled, x, layout), run(plain, x, layout), 1e-4)


@pytest.mark.parametrize("backend", ["dense", "triton"])
def test_layouts_of_any_shape(backend, device):
    encoder, plain = make(backend, device)
    counter = CompileCounterWithBackend(
        "inductor" if device.type == "cuda" else "aot_eager"
    )
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend=counter)
    for sizes in (*UNEQUAL, *EQUAL):
        x, layout = draw(sizes, device)
        check_close(run(compiled, x, layout), run(plain, x, layout), 1e-4)
    # Once for the first numbers, and once for all others.
    assert counter.frame_count <= 2


def test_the_layout_made_inside(device):
    encoder, plain = make("triton", device)

    def encode(x, index):
        return encoder(x, TokenLayout.from_index(index, 11))

    how = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(encode, fullgraph=True, dynamic=True, backend=how)
    for sizes in UNEQUAL:
        index, _ = draw_index(sizes)
        x = torch.randn(len(index), 32, device=device)
        layout = TokenLayout.from_index(index, 11).to(device)
        found = compiled(x, index.to(device))
        expected = plain(x, layout).double().cpu()
        check_close((found,), (expected,), 1e-4)


def test_a_graph_replays_with_new_numbers(cuda):
    case = Case(cuda, torch.bfloat16)

    def step():
        outputs = case.run("triton", True)
        ones = [torch.ones_like(out) for out in outputs]
        return [*outputs, *torch.autograd.grad(outputs, case.tensors, ones)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            # Kernels are compiled and plans made before the capture.
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        for tensor in case.tensors:
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for one, other in zip(found, step(), strict=True):
        assert torch.equal(one, other)
