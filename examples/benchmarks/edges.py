"""`TokenAttentionConv` over edge lists, beside PyG's TransformerConv: time and memory.

    python examples/benchmarks/edges.py

Both attend over the same random graph of 25,000 nodes (float32, 128 channels, 4 heads
of 32), at several numbers of edges a node, without and with edge features (8) and
dropout (0.1). Times are medians of turns in one process; memory is the growth of a
fresh process' peak over the first run. A row is printed as soon as it is measured.
"""

import argparse
import json
import subprocess
import sys

import torch
from attention import first_memory, infer, train_step
from batch_sizes import timed
from torch_geometric.nn import TransformerConv

from pyg_atomenc import TokenAttentionConv

NODES, C, H, D, FEATURES = 25_000, 128, 4, 32, 8
KINDS = ("plain", "edge features", "dropout")


def make(contender, kind, per_node, grad, *, nodes=NODES, backend="auto", like=None):
    """How to run a contender, and what it is differentiated by.

    Numbers have the type and the device of ``like``, float32 on the CPU unless told.
    """
    torch.manual_seed(0)
    like = torch.empty(0) if like is None else like
    edge_index = torch.randint(nodes, (2, int(nodes * per_node))).to(like.device)
    x = torch.randn(nodes, C).to(like).requires_grad_(grad)
    features = None
    if kind == "edge features":
        features = torch.randn(edge_index.size(1), FEATURES).to(like)
    options = {
        "heads": H,
        "edge_dim": None if features is None else FEATURES,
        "dropout": 0.1 if kind == "dropout" else 0.0,
    }
    if contender == "TransformerConv":
        conv = TransformerConv(C, D, root_weight=False, **options)
    else:
        conv = TokenAttentionConv(C, D, bias=True, backend=backend, **options)
    conv = conv.to(like.device, like.dtype)
    return lambda: conv(x, edge_index, features), [x, *conv.parameters()]


def memory(contender, kind, per_node, mode):
    """Bytes, by a fresh process."""
    command = [sys.executable, __file__, "--one", contender, kind, str(per_node), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--edges", type=float, nargs="+", default=[2.2, 6, 16])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        contender, kind, per_node, mode = args.one
        made = make(contender, kind, float(per_node), mode == "train")
        print(first_memory(made, mode == "train", "cpu"))
        return
    print(f"CPU, {args.threads} threads, torch {torch.__version__}, float32\n")
    print("| edges a node | | | TransformerConv | TokenAttentionConv | ratio |")
    print("|---" * 6 + "|")
    names = ("TransformerConv", "TokenAttentionConv")
    for per_node in args.edges:
        for kind in KINDS:
            for mode, step_of in (("infer", infer), ("train", train_step)):
                steps = [
                    step_of(make(n, kind, per_node, mode == "train")) for n in names
                ]
                times = timed(steps, 5)
                taken = [memory(name, kind, per_node, mode) for name in names]
                shown = [
                    f"{1e3 * t:.0f} ms, {m / 1e6:.0f} MB"
                    for t, m in zip(times, taken, strict=True)
                ]
                ratio = f"{times[0] / times[1]:.1f}, {taken[0] / taken[1]:.1f} ×"
                what = "forward" if mode == "infer" else "forward and backward"
                row = [f"{per_node:g}", kind, what, *shown, ratio]
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
