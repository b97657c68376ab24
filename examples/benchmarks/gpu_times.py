"""Times on a GPU, as `gpu_check.py` asks for them.

A row is one way from atoms to tokens (`contenders.py`; 128 channels, 4 heads of 32):

- `ms`: the median time of one call with a cold L2 cache; `clock` says of what: a CUDA
  graph's replay, or a call between events where none could be captured (`why`);
- `floor`: that over the time of LayerNorm and one matrix product, clocked alike, where
  the same process clocked it;
- `share`: of attention alone, what it has to move by what a copy moves in that time;
- `host`: milliseconds until a call returns on the CPU; `launches`: kernels and copies;
- `busy`: how long the GPU computes of it; `memory`: the peak of a call beyond what
  there was, in multiples of one [N, 3·H·d];
- `first`: seconds of the first call, with compilation;
- `off`: the largest difference from the dense backend's tokens, or over edges from what
  messages give, over the largest value.
"""

import time
from contextlib import contextmanager
from functools import lru_cache, partial
from types import SimpleNamespace

import edges
import torch
from attention import copy_bandwidth, infer, train_step
from contenders import ATTENTIONS, CONTENDERS, PAIRS, PEERS, floor, package
from device_clock import look_into, replay_clock, wait
from problems import D, H, Problem, Projected

from pyg_atomenc.attention.triton import launch

# Of most interest first, each with and without gradients.
SIZES = (
    "residues-1000000",
    "drug-32",
    "residues-25000",
    "drug-1024",
    "mixed",
    "residues-250000",
    "size-1-100000",
    "drug-8",
    "residues-250000" + PAIRS,
    *(f"size-{size}-262144" for size in (16, 32, 64, 4, 8, 128, 512)),
)
FEW = ("residues-1000000", "drug-32", "mixed", "drug-1024", "size-1-100000")
ON_A_CPU = ("drug-2", "residues-100" + PAIRS)
TYPES = (torch.bfloat16, torch.float32, torch.float16)
OURS = {"floor": floor, "triton": package("triton"), "dense": package("dense")}
NOT_OTHERS = ("pyg_atomenc auto", "pyg_atomenc dense")
OTHERS = {
    name: make
    for name, make in CONTENDERS.items()
    if name not in NOT_OTHERS and not name.endswith(PAIRS)
}
# Which take long at first.
COMPILED = ("size buckets, compiled", "flex_attention", "PyG edges, compiled")
# By type and the size that tokens are padded to: items and warps of a program, first
# those of `launch.py`, last those of the kernels before.
CONFIGS = {
    torch.bfloat16: {
        16: ((4, 1), (4, 2), (2, 1), (1, 1), (4, 4)),
        32: ((4, 4), (4, 2), (2, 1), (1, 1), (1, 4)),
        64: ((1, 4), (2, 8), (4, 8), (2, 4), (1, 8)),
    },
    torch.float32: {
        16: ((4, 4), (4, 2), (1, 1), (1, 4)),
        32: ((1, 2), (4, 8), (2, 2), (1, 8)),
    },
}


def sizes_on(device, sizes):
    return sizes if device == "cuda" else ON_A_CPU


@lru_cache(1)
def problem_of(size, device, dtype):
    """The problem of a name, and the dense backend's tokens."""
    pairs = size.endswith(PAIRS)
    problem = Problem(size.removesuffix(PAIRS), device, dtype, 1.0, True, pairs)
    return problem, infer(package("dense")(problem))().float()


@lru_cache(1)
def projected(size, device, dtype):
    return Projected(size, device, dtype, grad=True)


def timed(make, problem, grad, device):
    """What a row tells, and the tokens."""
    wait(device)
    made, start = make(problem), time.perf_counter()
    tokens = made[0]() if grad else infer(made)()
    if grad:
        tokens.backward(torch.ones_like(tokens))
    # Nodes of autograd that live on belong to this stream, and end another's capture.
    tokens = tokens.detach().float()
    wait(device)
    row = {"first": time.perf_counter() - start}
    step = train_step(made) if grad else infer(made)
    step()
    row = {**replay_clock(step, device), **row}
    if device == "cuda":
        for leaf in made[1]:
            leaf.grad = None
        row.update(look_into(step))
        row["memory"] = row.pop("bytes") / (3 * H * D * problem.x[:, 0].nbytes)
    return row, tokens


FLOORS = {}


def encoder_row(size, dtype, name, make, grad, device):
    """From atoms to tokens."""
    problem, dense = problem_of(size, device, dtype)
    row, tokens = timed(make, problem, grad, device)
    key = size.removesuffix(PAIRS), dtype, grad, device
    if make is floor:
        FLOORS[key] = row["ms"]
    elif name not in PEERS:
        row["off"] = ((tokens - dense).abs().max() / dense.abs().max()).item()
    first = {"atoms": len(problem.index), "ms": row.pop("ms")}
    if key in FLOORS:
        first["floor"] = first["ms"] / FLOORS[key]
    return {**first, **row}


def told(size, dtype, name, grad):
    passes = "both" if grad else "forward"
    return {"tokens": size, "type": str(dtype)[6:], "by": name, "pass": passes}


def rows_of(sizes, dtype, ways, device):
    """Jobs of all ways, each with and without gradients."""
    for size in sizes:
        for name, make in ways.items():
            # With a bias of pairs, whoever takes one.
            if size.endswith(PAIRS) and name not in ("triton", "dense"):
                continue
            for grad in (False, True):
                given = (size, dtype, name, make, grad, device)
                yield told(size, dtype, name, grad), partial(encoder_row, *given)


def encoders(device):
    """The package beside the floor: what is of most interest first."""
    sizes = sizes_on(device, SIZES)
    for part in (sizes[:4], sizes[4:9], sizes[9:]):
        for dtype in TYPES[:2]:
            yield from rows_of(part, dtype, OURS, device)
    yield from rows_of(sizes, TYPES[2], OURS, device)


def contenders(device):
    """What else one could use, beside the floor."""
    ways = {n: m for n, m in OTHERS.items() if n not in COMPILED}
    for dtype in TYPES[:2]:
        given = {"floor": floor, **ways}
        yield from rows_of(sizes_on(device, FEW), dtype, given, device)


def compiled_contenders(device):
    """What of it torch has to compile."""
    ways = {n: OTHERS[n] for n in COMPILED}
    for dtype in TYPES[:2]:
        yield from rows_of(sizes_on(device, FEW), dtype, ways, device)


# Nodes, and edges a node.
GRAPHS = ((400_000, 16), (25_000, 16), (400_000, 6), (25_000, 6), (25_000, 2.2))


def of_edges(name, kind, nodes, per_node, dtype, grad, device):
    """A convolution over edges, and what to differentiate by."""
    like = torch.empty(0, dtype=dtype, device=device)
    given = {"nodes": nodes, "backend": name, "like": like}
    return edges.make(name, kind, per_node, grad, **given)


@lru_cache(1)
def messages(*given):
    """What they give."""
    return infer(of_edges("edges", *given))().float()


def edges_row(name, kind, nodes, per_node, dtype, grad, device):
    """Attention over edges, which are sorted at every call, or TransformerConv."""
    made = of_edges(name, kind, nodes, per_node, dtype, grad, device)
    row, out = timed(lambda _: made, SimpleNamespace(x=made[1][0]), grad, device)
    if name != "TransformerConv":
        exact = messages(kind, nodes, per_node, dtype, False, device)
        row["off"] = ((out - exact).abs().max() / exact.abs().max()).item()
    return {"edges": int(nodes * per_node), "ms": row.pop("ms"), **row}


def edge_lists(device):
    """Convolutions over edges, without and with features of these."""
    for kind in edges.KINDS[:2]:
        for nodes, per_node in GRAPHS if device == "cuda" else ((200, 3),):
            for dtype in TYPES[1::-1]:
                for name in ("TransformerConv", "edges", "dense"):
                    for grad in (False, True):
                        about = {"kind": kind, "nodes": nodes, "a node": per_node}
                        given = (name, kind, nodes, per_node, dtype, grad, device)
                        row = {**told("edges", dtype, name, grad), **about}
                        yield row, partial(edges_row, *given)


def attention_row(size, dtype, make, grad, device):
    """Attention and pooling from queries, keys and values."""
    problem = projected(size, device, dtype)
    row, _ = timed(make, problem, grad, device)
    bandwidth = bandwidth_of(device)
    share = problem.bytes(grad)[0] / (row["ms"] / 1e3) / bandwidth
    return {"ms": row.pop("ms"), "share": share, "GB/s": bandwidth / 1e9, **row}


@lru_cache
def bandwidth_of(device):
    return copy_bandwidth(device)


def attention_alone(device):
    """Of a million atoms in residues, in three types."""
    size = SIZES[0] if device == "cuda" else "residues-100"
    names = ["pyg_atomenc triton", "pyg_atomenc dense", "varlen_attn", "size buckets"]
    for dtype in TYPES:
        for name in names:
            for grad in (False, True):
                given = (size, dtype, ATTENTIONS[name], grad, device)
                yield told(size, dtype, name, grad), partial(attention_row, *given)


@contextmanager
def configured(dtype, size, items, warps):
    """Another configuration of the kernels for tokens that are padded to a size."""
    table = launch.kernel_configs(dtype, D)
    kept = table[size]
    table[size] = launch.KernelConfig(items, warps)
    try:
        yield
    finally:
        table[size] = kept


def configurations(device):
    """Attention alone, of tokens that fill three quarters of a size."""
    atoms = 524_288 if device == "cuda" else 48
    make = ATTENTIONS["pyg_atomenc triton"]
    for dtype, sizes in CONFIGS.items():
        for size, configs in sizes.items():
            for items, warps in configs:
                for grad in (False, True):
                    mix = f"size-{size - size // 4}-{atoms}"

                    def run(
                        config=(dtype, size, items, warps),
                        given=(mix, dtype, make, grad, device),
                    ):
                        with configured(*config):
                            return attention_row(*given)

                    about = {"items": items, "warps": warps}
                    yield {**told(mix, dtype, "triton", grad), **about}, run
