"""The encoder by batch size, beside what else one could use, from x to tokens.

    python examples/benchmarks/batch_sizes.py --out docs/images
    python examples/benchmarks/batch_sizes.py --quick
    python examples/benchmarks/batch_sizes.py --quick --only pyg_atomenc

Batches of 1 to 1,024 molecules, each one token or cut into fragments, go through every
contender of `contenders.py` with the same atoms, tokens and weights (float32, 128
channels, 4 heads of 32). All run in one process, in turns with the floor: LayerNorm
and one [C, 3 * H * d] matrix product on the same atoms. Times are medians. What
depends on the batch alone is made before; what a layout and its plan take is in the
last column. A row is printed as soon as it is measured; at the end `batch_sizes.md` and
`batch_sizes.svg` are written. Needs the extra `plot`.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from attention import GAPS, infer, train_step
from contenders import CONTENDERS, PEERS, floor
from problems import C, Problem, loop

from pyg_atomenc import AtomAttentionEncoder, TokenLayout
from pyg_atomenc.errors import require_package

OURS = "pyg_atomenc auto"
COLUMNS = {
    OURS: "pyg_atomenc",
    "to_dense_batch + SDPA": "padded SDPA",
    "PyG edges + softmax + scatter": "PyG edges",
    "PyG TransformerConv": "TransformerConv",
    "PyG SetTransformerAggregation": "SetTransformer",
}
KINDS = {"molecules": "molecule", "fragments": "fragment"}
MODES = {"infer": "forward", "train": "forward and backward"}
COUNTS = (1, 8, 32, 128, 1024)


def timed(functions, seconds):
    """The median time of each, taken in turns for about so many seconds.

    A turn of a short function is some calls in a row, as timeit has it.
    """
    calls, times = [], [[] for _ in functions]
    for function in functions:
        function()
        calls.append(max(1, int(0.005 / clock(function))))
    start = time.perf_counter()
    least = 5 if seconds > 1 else 1
    while len(times[0]) < least or time.perf_counter() - start < seconds:
        for function, count, found in zip(functions, calls, times, strict=True):
            found.append(clock(function, count))
    return [statistics.median(found) for found in times]


def clock(function, count=1):
    """Seconds of a call, of so many in a row."""
    begin = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - begin) / count


def row(name, mode, seconds):
    """Times of the floor and of every contender, and of a layout."""
    problem = Problem(name, "cpu", grad=mode == "train")
    step_of = train_step if mode == "train" else infer
    made = {contender: CONTENDERS[contender](problem) for contender in COLUMNS}
    expected = loop(Problem(name, "cpu", torch.float64)) if mode == "infer" else None
    for contender, (run, _) in made.items():
        if expected is not None and contender not in PEERS:
            gap = (run().double() - expected).abs().max() / expected.abs().max()
            if not gap < GAPS["float32"]:
                raise ArithmeticError(f"{contender} differs from the loop by {gap:.1e}")
    steps = [step_of(floor(problem)), *[step_of(one) for one in made.values()]]
    base, *others = timed(steps, seconds)
    times = dict(zip(COLUMNS, others, strict=True))
    layout = new_layout(problem, min(seconds, 1.5))
    return {"atoms": len(problem.x), "floor": base, "layout": layout, "times": times}


def new_layout(problem, seconds):
    """What it takes to make a layout, and to plan it in the first call."""
    encoder, index, count = AtomAttentionEncoder(C), problem.index, problem.num_tokens
    x, layout = problem.x.detach(), TokenLayout.from_index(index, count)
    with torch.no_grad():
        new, known = timed(
            [
                lambda: encoder(x, TokenLayout.from_index(index, count)),
                lambda: encoder(x, layout),
            ],
            seconds,
        )
    return new - known


def cells(name, mode, found):
    """A row of the table."""
    kind, count = name.split("-")
    label = f"{int(count):,} {kind if count != '1' else KINDS[kind]}"
    shown = [f"{1e3 * t:.2f}" for t in found["times"].values()]
    ours = found["times"][OURS]
    shown[0] = f"**{shown[0]}** ({ours / found['floor']:.2f} ×)"
    layout, base = (f"{1e3 * found[key]:.2f}" for key in ("layout", "floor"))
    others = [t for c, t in found["times"].items() if c != OURS]
    return [
        label,
        f"{found['atoms']:,}",
        MODES[mode],
        base,
        *shown,
        f"{min(others) / ours:.2f}" if others else "–",
        layout,
    ]


def plot(results, path):
    """Time over the floor by atoms, forward and backward."""
    require_package("matplotlib", "batch_sizes.py").use("Agg")
    pyplot = require_package("matplotlib.pyplot", "batch_sizes.py")
    figure, axes = pyplot.subplots(
        1, 2, figsize=(10, 4), sharey=True, layout="constrained"
    )
    for axis, kind in zip(axes, KINDS, strict=True):
        rows = [
            found
            for (name, mode), found in results.items()
            if name.startswith(kind) and mode == "train"
        ]
        atoms = [found["atoms"] for found in rows]
        for contender, label in COLUMNS.items():
            ratios = [found["times"][contender] / found["floor"] for found in rows]
            width = 2.5 if contender == OURS else 1.2
            axis.plot(atoms, ratios, "o-", label=label, linewidth=width)
        axis.axhline(1, color="black", linestyle="--", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel=f"atoms, tokens are {kind}")
    axes[0].set_ylabel("forward + backward, × LayerNorm and QKV")
    axes[0].legend(fontsize=8)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    only = {"choices": list(COLUMNS.values()), "default": list(COLUMNS.values())}
    text = "contenders in turns with the floor, without a plot unless all are"
    parser.add_argument("--only", nargs="+", help=text, **only)
    args = parser.parse_args()
    whole = len(args.only) == len(COLUMNS)
    for contender, label in list(COLUMNS.items()):
        if label not in {*args.only, COLUMNS[OURS]}:
            del COLUMNS[contender]
    require_package("matplotlib", "batch_sizes.py")
    torch.set_num_threads(args.threads)
    # As in a training, the allocator has seen large tensors come and go; before, it
    # maps some sizes anew at every call, in one process and not in the next.
    torch.empty(30 * 2**20, dtype=torch.uint8)
    heads = ["tokens", "atoms", "", "floor", *COLUMNS.values(), "best other ÷ ours"]
    lines = [
        f"CPU, {args.threads} threads, torch {torch.__version__}, float32, ms",
        "",
        "| " + " | ".join([*heads, "layout"]) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    print("\n".join(lines), flush=True)
    results = {}
    for kind in KINDS:
        for count in COUNTS:
            for mode in MODES:
                name = f"{kind}-{count}"
                found = results[name, mode] = row(name, mode, 0.5 if args.quick else 8)
                lines.append("| " + " | ".join(cells(name, mode, found)) + " |")
                print(lines[-1], flush=True)
    if not whole:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "batch_sizes.md").write_text("\n".join(lines), encoding="utf-8")
    plot(results, args.out / "batch_sizes.svg")
    print(f"written: {args.out / 'batch_sizes.md'}, {args.out / 'batch_sizes.svg'}")


if __name__ == "__main__":
    main()
