"""Memory, graphs and compilers on a GPU, as `gpu_check.py` asks for them.

A row with `gap` and `allowed` is a result that may be wrong; one with `limit` has a
number that should be no larger, and decides nothing.
"""

import time
from functools import partial

import torch
from device_clock import captured, wait
from gpu_results import Tokens
from problems import C, D, H
from torch.nn import functional as F

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.attention import TokenLayout, attention_pool, backends
from pyg_atomenc.attention.triton.launch import is_interpreted

# Of equal numbers of atoms, tokens and pairs, but not of atoms in a token.
EQUAL = ((0, 40, 50, 5, 129), (5, 10, 129, 20, 60))
# Float32 on the device beside float64, with sums in another order.
ALLOWED = 1e-4
MODES = ("default", "reduce-overhead")
AUTOTUNED = "max-autotune-no-cudagraphs"  # which tries products for two minutes
BACKENDS = ("triton", "dense")


def need_cuda(device):
    if device != "cuda":
        raise RuntimeError("needs a CUDA device")


def able(device):
    """Backends that run there."""
    runs = device == "cuda" or is_interpreted()
    return [name for name in BACKENDS if runs or name != "triton"]


# Memory


def peak_of(step):
    """Bytes that a second run takes beyond what was there."""
    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def residues(count, device):
    """The layout of so many tokens of nine atoms."""
    index = torch.arange(count, device=device).repeat_interleave(9)
    return TokenLayout.from_index(index, count)


def growth(backend, device):
    """The encoder's bytes an atom, of many atoms over those of few."""
    need_cuda(device)
    encoder = AtomAttentionEncoder(C, D, H, backend=backend).to(device)
    peaks = []
    for count in (20_000, 80_000):
        layout = residues(count, device)
        x = torch.randn(layout.num_atoms, C, device=device, requires_grad=True)
        leaves = [x, *encoder.parameters()]
        step = partial(differentiate, encoder, leaves, layout)
        peaks.append(peak_of(step) / layout.num_atoms)
    return {"bytes an atom": peaks[-1], "ratio": peaks[-1] / peaks[0], "limit": 1.1}


def differentiate(encoder, leaves, layout):
    """Tokens and gradients."""
    tokens = encoder(leaves[0], layout)
    weights = torch.linspace(-1, 1, tokens.numel(), device=tokens.device)
    loss = (tokens.float() * weights.view(tokens.shape)).sum()
    return [tokens, *torch.autograd.grad(loss, leaves)]


def beside_inputs(grad, device):
    """Of attention alone: all memory over that of inputs and outputs."""
    need_cuda(device)
    layout = residues(100_000, device)
    shape, options = (layout.num_atoms, H, D), {"device": device}
    qkv = [torch.randn(shape, **options).bfloat16().requires_grad_() for _ in range(3)]
    one = qkv[0].nbytes
    outputs = one // 9 + layout.num_atoms * 4 * H
    kept = 3 * one + (3 * one + 2 * outputs if grad else outputs)

    def step():
        tokens, _ = attention_pool(*qkv, layout, backend="triton")
        if grad:
            torch.autograd.grad(tokens, qkv, torch.ones_like(tokens))

    return {"ratio": (3 * one + peak_of(step)) / kept, "limit": 1.2}


def large_token(backend, device):
    """Of a token of 30,000 atoms: memory over that of the matrix of its pairs."""
    need_cuda(device)
    layout = TokenLayout.from_index(torch.zeros(30_000, device=device).long())
    qkv = [torch.randn(30_000, 1, 16, device=device) for _ in range(3)]
    peak = peak_of(lambda: attention_pool(*qkv, layout, backend=backend))
    return {"ratio": peak / (4 * layout.num_pairs), "limit": 0.1}


def memory(device):
    for name in able("cuda"):
        yield {"what": "an atom's, encoder", "by": name}, partial(growth, name, device)
        told = {"what": "of its pairs, 30,000 atoms", "by": name}
        yield told, partial(large_token, name, device)
    for grad in (False, True):
        what = "of inputs and outputs, " + ("both" if grad else "forward")
        yield {"what": what, "by": "triton"}, partial(beside_inputs, grad, device)


# Graphs, compilers, and layouts


class Batch:
    """An encoder's inputs on the device, and what it should make of them."""

    def __init__(self, encoder, sizes, device):
        self.tokens = Tokens(sizes)
        self.layout = self.tokens.layout.to(device)
        self.x = torch.randn(len(self.tokens.index), C)
        self.leaf = self.x.to(device).requires_grad_()
        self.find(encoder)

    def find(self, encoder):
        """Tokens and gradients by the definition, in float64."""
        leaves = [self.x, *(p.detach().cpu() for p in encoder.parameters())]
        leaves = [leaf.double().requires_grad_() for leaf in leaves]
        h = F.layer_norm(leaves[0], (C,))
        heads = (F.linear(h, weight).unflatten(1, (H, D)) for weight in leaves[1:])
        tokens = self.tokens.definition(*heads)[1].flatten(1)
        weights = torch.linspace(-1, 1, tokens.numel()).double().view(tokens.shape)
        loss = (tokens * weights).sum()
        self.exact = [tokens.detach(), *torch.autograd.grad(loss, leaves)]

    def step(self, encoder, parameters):
        """Tokens and gradients by the encoder, compiled or not."""
        return differentiate(encoder, [self.leaf, *parameters], self.layout)

    def gap(self, found):
        """The largest difference, relative to the largest value."""
        gaps = [
            ((one.detach().double().cpu() - other).abs().max() / other.abs().max())
            for one, other in zip(found, self.exact, strict=True)
        ]
        return torch.stack(gaps).nan_to_num(nan=torch.inf).max().item()


def make(backend, device):
    """An encoder, and batches of two layouts of equal shapes."""
    # Queries, keys and values in this order, as `Batch.find` takes them.
    encoder = AtomAttentionEncoder(C, D, H, backend=backend).to(device)
    return encoder, [Batch(encoder, sizes, device) for sizes in EQUAL]


def graph_of(backend, device):
    """A graph of one layout replays with new numbers, after another layout's turn."""
    need_cuda(device)
    encoder, (first, second) = make(backend, device)
    parameters = list(encoder.parameters())
    graph, found = captured(lambda: first.step(encoder, parameters))
    second.step(encoder, parameters)
    with torch.no_grad():
        first.x = torch.randn_like(first.x)
        first.leaf.copy_(first.x)
    graph.replay()
    torch.cuda.synchronize()
    first.find(encoder)
    return {"gap": first.gap(found), "allowed": ALLOWED}


def capture(device):
    for name in able("cuda"):
        told = {"what": "forward and backward replayed", "by": name}
        yield told, partial(graph_of, name, device)


def compiled(backend, mode, device):
    """A compiled encoder, of two layouts of equal shapes in turn."""
    encoder, batches = make(backend, device)
    parameters = list(encoder.parameters())
    torch.compiler.reset()
    options = {"backend": "aot_eager"} if device == "cpu" else {"mode": mode}
    model = torch.compile(encoder, fullgraph=True, **options)
    gaps, start = [], time.perf_counter()
    for batch in batches * 4:
        torch.compiler.cudagraph_mark_step_begin()
        gaps.append(batch.gap(batch.step(model, parameters)))
        if len(gaps) == 1:
            first = time.perf_counter() - start
    return {"first": first, "gap": max(gaps), "allowed": ALLOWED}


def compile_modes(device):
    for mode in MODES:
        yield from compiled_by(mode, able(device), device)


def autotuned(device):
    """Which takes long, and says little that other modes do not."""
    yield from compiled_by(AUTOTUNED, able(device), device)


def compiled_by(mode, names, device):
    for name in names:
        told = {"what": "torch.compile", "mode": mode, "by": name}
        yield told, partial(compiled, name, mode, device)


def in_turn(backend, device):
    """Two layouts of equal shapes in turn, and in the same memory."""
    encoder, batches = make(backend, device)
    parameters = list(encoder.parameters())
    gaps = [batch.gap(batch.step(encoder, parameters)) for batch in batches * 3]
    return {"gap": max(gaps), "allowed": ALLOWED}


def kernels_compiled(device):
    """Kernels that were compiled anew in twenty batches after the first two."""
    need_cuda(device)
    from pyg_atomenc.attention.triton import kernels

    functions = (kernels.attention_forward, kernels.attention_backward)
    encoder, counts = AtomAttentionEncoder(C, D, H, backend="triton").to(device), []
    for number in range(22):
        sizes = torch.randint(1, 64, (number % 7 + 3,)).tolist()
        batch = Batch(encoder, (3, 20, 50, *sizes), device)
        batch.step(encoder, list(encoder.parameters()))
        wait(device)
        caches = [c[0] for f in functions for c in f.device_caches.values()]
        counts.append(sum(map(len, caches)))
    return {"kernels": counts[1], "anew": counts[-1] - counts[1], "limit": 0}


def layouts_in_turn(device):
    names = [n for n in backends() if n in (*able(device), "edges")]
    for name in names:
        yield {"what": "in turn", "by": name}, partial(in_turn, name, device)
    yield {"what": "compilations", "by": "triton"}, partial(kernels_compiled, device)
