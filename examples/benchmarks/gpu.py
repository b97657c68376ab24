"""What a GPU makes of the encoder: milliseconds, launches, memory, beside its peers.

    python examples/benchmarks/gpu.py --output outputs

A row is one way from atoms to tokens (`contenders.py`; 128 channels, 4 heads of 32):

- `ms`: the median time of one call between CUDA events, with a cold L2 cache;
- `busy`: how long the GPU computes of it, by torch's profiler. Where calls follow each
  other, one takes the longer of `busy` and `host`;
- `host`: milliseconds until a call returns on the CPU; `launches`: kernels and copies;
- `memory`: the peak of a call beyond what there was, in multiples of one [N, 3·H·d];
- `first`: seconds of the first call, with compilation;
- `gap`: the largest difference from the dense backend's tokens, over the largest value;
- `share`: of attention alone, what it has to move by what a copy moves in that time.

Writes `gpu.md` and `gpu.json`, and with `--profile` what single kernels take. A row
that cannot run says why; rows are left out when the seconds of `--budget` are over.
"""

import argparse
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from attention import copy_bandwidth, infer, train_step
from contenders import (
    ATTENTIONS,
    CONTENDERS,
    PAIRS,
    floor,
    package,
)
from device_clock import clock, look_into, wait
from problems import C, D, H, Problem, Projected
from torch_geometric.nn import SetTransformerAggregation

from pyg_atomenc.attention.dense import plan

SIZES = (
    *(f"drug-{count}" for count in (8, 32, 128, 1024)),
    *(f"residues-{count}" for count in (25_000, 250_000, 1_000_000)),
    "mixed",
    "size-1-100000",
    "residues-250000" + PAIRS,
)
QUICK = ("drug-32", "residues-25000", "residues-1000000")
ON_A_CPU = ("drug-2", "residues-100", "residues-100" + PAIRS)


def set_transformer(problem):
    """PyG's SetTransformerAggregation, which is another formula: no gap to tell."""
    pool = SetTransformerAggregation(C, heads=H)
    pool = pool.to(problem.x.device, problem.x.dtype)

    def run():
        return pool(problem.x, problem.index, dim_size=problem.num_tokens)

    return run, [problem.x, *pool.parameters()]


OURS = {
    "floor": floor,
    "dense": package("dense"),
    "dense, small chunks": package("dense"),
    "triton": package("triton"),
    "to_dense_batch + SDPA": CONTENDERS["to_dense_batch + SDPA"],
}
PEERS = {
    "edges": package("edges"),
    "PyG edges + softmax + scatter": CONTENDERS["PyG edges + softmax + scatter"],
    "PyG TransformerConv": CONTENDERS["PyG TransformerConv"],
    "nested tensor SDPA": CONTENDERS["nested tensor SDPA"],
    "varlen_attn": CONTENDERS["varlen_attn"],
    "SetTransformerAggregation": set_transformer,
}
TAKE_PAIRS = ("dense", "dense, small chunks", "triton", "edges", "PyG edges")


@contextmanager
def chunks(name):
    """For a row of that name, chunks of the size that suits a CPU's cache."""
    kept = plan.ACCELERATOR
    if "small chunks" in name:
        plan.ACCELERATOR = plan.CPU
    try:
        yield
    finally:
        plan.ACCELERATOR = kept


def measure(name, make, problem, grad, device, expected=None):
    """What a row tells."""
    with chunks(name):
        made = make(problem)
        wait(device)
        start = time.perf_counter()
        tokens = made[0]() if grad else infer(made)()
        if grad:
            tokens.backward(torch.ones_like(tokens))
        tokens = tokens.detach().float()
        wait(device)
        row = {"first": time.perf_counter() - start}
        step = train_step(made) if grad else infer(made)
        step()
        row.update(clock(step, device))
        if device == "cuda":
            for leaf in made[1]:
                leaf.grad = None
            row.update(look_into(step))
            row["memory"] = row["bytes"] / (3 * H * D * problem.x[:, 0].nbytes)
    if expected is not None and name not in ("floor", "SetTransformerAggregation"):
        gap = (tokens - expected).abs().max() / expected.abs().max()
        row["gap"] = gap.item()
    return row


def add_row(rows, told, deadline, function, *given):
    """Measure, or keep why that was not possible; print the row."""
    row = dict(zip(("size", "atoms", "name", "dtype", "grad"), told, strict=True))
    row["dtype"] = str(row["dtype"]).removeprefix("torch.")
    try:
        if time.perf_counter() > deadline:
            raise TimeoutError("left out, as the time was over")
        row.update(function(*given))
    except Exception as error:  # noqa: BLE001
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if "error" in row and torch.cuda.is_available():
        torch.cuda.empty_cache()
    rows.append(row)
    print(line_of(row), flush=True)


def encoders(sizes, contenders, device, rows, deadline):
    """From atoms to tokens, on all sizes, in two types."""
    for size, dtype in ((s, t) for s in sizes for t in (torch.bfloat16, torch.float32)):
        pairs = size.endswith(PAIRS)
        problem = Problem(size.removesuffix(PAIRS), device, dtype, 1.0, True, pairs)
        expected = infer(package("dense")(problem))().float()
        for name, make in contenders.items():
            for grad in (False, True):
                told = (size, len(problem.index), name, dtype, grad)
                given = (name, make, problem, grad, device, expected)
                if not pairs or name.startswith(TAKE_PAIRS):
                    add_row(rows, told, deadline, measure, *given)


def alone(size, device, rows, deadline):
    """Attention and pooling from q, k and v, as a share of a copy's bandwidth."""
    bandwidth = copy_bandwidth(device)

    def with_share(name, make, problem, grad, device):
        row = measure(name, make, problem, grad, device)
        share = problem.bytes(grad)[0] / (row["ms"] / 1e3) / bandwidth
        return {**row, "share": share, "bandwidth": bandwidth}

    for dtype in (torch.bfloat16, torch.float32):
        problem = Projected(size, device, dtype, grad=True)
        for name, make in ATTENTIONS.items():
            for grad in (False, True):
                told = (size, len(problem.index), name + " (q, k, v)", dtype, grad)
                given = (name, make, problem, grad, device)
                if name in ("pyg_atomenc triton", "pyg_atomenc dense", "varlen_attn"):
                    add_row(rows, told, deadline, with_share, *given)


def profile(sizes, device, path):
    """What single operators and kernels take of a forward and backward."""
    order = f"self_{'cpu' if device == 'cpu' else 'device'}_time_total"
    wanted = "dense" if device == "cpu" else ("dense", "triton")
    with path.open("w", encoding="utf-8") as file:
        for size in sizes:
            for name in (name for name in OURS if name.startswith(wanted)):
                problem = Problem(size, device, torch.bfloat16, grad=True)
                with chunks(name):
                    step = train_step(OURS[name](problem))
                    step()
                    with torch.profiler.profile() as found:
                        step()
                        wait(device)
                table = found.key_averages().table(sort_by=order, row_limit=30)
                file.write(f"{name}, {size}, bfloat16, both\n{table}\n\n")


COLUMNS = ("ms", "busy", "host", "launches", "memory", "first", "gap", "share")
HEAD = ("sizes", "atoms", "contender", "type", "pass", *COLUMNS)
HEAD = f"| {' | '.join(HEAD)} |\n" + "|---" * len(HEAD) + "|"


def line_of(row):
    """A row of the Markdown table."""
    cells = [row["size"], f"{row['atoms']:,}", row["name"], row["dtype"]]
    cells.append("both" if row["grad"] else "forward")
    if "error" in row:
        cells += [row["error"].replace("|", "/")[:90], *[""] * (len(COLUMNS) - 1)]
    else:
        cells += [f"{row[key]:.3g}" if key in row else "" for key in COLUMNS]
    return f"| {' | '.join(cells)} |"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--quick", action="store_true", help="fewer sizes, no peers")
    parser.add_argument("--budget", type=float, default=210, help="seconds of all rows")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--without", help="leave out contenders that have this name")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("'--device' is 'cuda', but torch finds no CUDA device here")
    gpu, rows, deadline = args.device == "cuda", [], time.perf_counter() + args.budget
    sizes = ON_A_CPU if not gpu else QUICK if args.quick else SIZES
    title = torch.cuda.get_device_name() if gpu else "CPU"
    title += f", torch {torch.__version__}"
    print(title, "", HEAD, sep="\n", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    # So that kernels are compiled as when they are first used.
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()
    try:
        for contenders in (OURS, PEERS, ATTENTIONS):
            for name in [n for n in contenders if args.without and args.without in n]:
                del contenders[name]
        encoders(sizes, OURS, args.device, rows, deadline)
        alone(SIZES[6] if gpu else sizes[1], args.device, rows, deadline)
        if not (gpu and args.quick):
            encoders(sizes, PEERS, args.device, rows, deadline)
        if args.profile:
            chosen = (SIZES[4], SIZES[6]) if gpu else sizes[:1]
            profile(chosen, args.device, args.output / "profile.txt")
    finally:
        table = "\n".join([title, "", HEAD, *map(line_of, rows), ""])
        (args.output / "gpu.md").write_text(table, encoding="utf-8")
        found = json.dumps({"title": title, "rows": rows}, indent=1)
        (args.output / "gpu.json").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
