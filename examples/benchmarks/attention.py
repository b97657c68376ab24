"""Time and memory of the encoder, beside what else one could use, from x to tokens.

    python examples/benchmarks/attention.py --out docs/images

Every contender gets the same atoms, tokens and weights (float32, on a GPU bfloat16; 128
channels, 4 heads of 32). It runs in a fresh process, which measures the peak memory of
the first run, compares the result with a loop over tokens in float64 on a smaller draw,
refuses to time it if they differ, and else times it in turns with the floor: LayerNorm
and one [C, 3 * H * d] matrix product on the same atoms. What depends on the batch alone
(layouts, edge lists, masks) is made before. PyG's SetTransformerAggregation, a model of
its own that pools by attention, too, is timed without that comparison. Writes
`benchmark.md` and `benchmark.svg`. Needs the extra `plot`.

    python examples/benchmarks/attention.py --device cuda --out outputs

also takes attention and pooling alone, at 1,000,000 atoms, and relates the bytes that
they have to move to the GPU's measured copy bandwidth.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from contenders import (
    ATTENTIONS,
    CONTENDERS,
    PAIRS,
    PEERS,
    floor,
)
from problems import D, H, Problem, Projected, loop
from tqdm import tqdm

from pyg_atomenc.errors import require_package

# The largest difference from the loop with which a contender is timed.
GAPS = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


def train_step(made):
    """Forward and backward, for the atoms and the weights."""
    run, leaves = made
    grad = torch.ones_like(run())

    def step():
        for leaf in leaves:
            leaf.grad = None
        run().backward(grad)

    return step


def infer(made):
    """Forward alone."""
    run, _ = made

    def step():
        with torch.no_grad():
            return run()

    return step


def difference(name, contender, device, dtype, alone):
    """From a loop over tokens in float64, relative to the largest value."""
    options = {"share": 0.05, "pairs": contender.endswith(PAIRS)}
    if alone:
        # From the numbers as the contender sees them.
        problem = Projected(name, device, dtype, share=0.05)
        exact = Projected(name, "cpu", torch.float64, share=0.05)
        exact.leaves = [leaf.detach().cpu().double() for leaf in problem.leaves]
        expected, found = loop(exact), ATTENTIONS[contender](problem)[0]()
    else:
        expected = loop(Problem(name, "cpu", torch.float64, **options))
        found = CONTENDERS[contender](Problem(name, device, dtype, **options))[0]()
    gap = (found.double().cpu() - expected).abs().max() / expected.abs().max()
    return gap.item()


def memory_reset(device):
    """Forget the peak so far."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return memory_peak(device)


def memory_peak(device):
    """Bytes: of the GPU's allocator, or of the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def clock(function, device):
    """Seconds of one call."""
    if device == "cuda":
        # Calls are queued ahead, as in training.
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(10):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / 10
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def first_memory(made, grad, device):
    """The peak memory of a first run, beyond what there was before."""

    def run():
        if not grad:
            infer(made)()
            return
        for leaf in made[1]:
            leaf.grad = None
        out = made[0]()
        out.backward(torch.ones_like(out))

    if device == "cuda":
        # A GPU's peak is that of any run, and kernels are compiled and tuned before.
        run()
    before = memory_reset(device)
    run()
    return memory_peak(device) - before


def copy_bandwidth(device):
    """Bytes a second, read and written, of copying half a gigabyte."""
    source = torch.zeros(2**29 if device == "cuda" else 2**26, dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    times = [clock(lambda: target.copy_(source), device) for _ in range(8)]
    return 2 * source.numel() / statistics.median(times[2:])


def measure_alone(name, contender, mode, device, dtype, check):
    """Attention and pooling from queries, keys and values, as a share of a copy."""
    grad = mode.endswith("train")
    problem = Projected(name, device, dtype, grad=grad)
    made = ATTENTIONS[contender](problem)
    memory = first_memory(made, grad, device)
    gap, step = check(), train_step(made) if grad else infer(made)
    moved, kept = problem.bytes(grad)
    seconds = statistics.median([clock(step, device) for _ in range(7)])
    bandwidth = copy_bandwidth(device)
    inputs = sum(leaf.nbytes for leaf in problem.leaves)
    return {
        "seconds": seconds,
        "share": moved / seconds / bandwidth,
        "bandwidth": bandwidth,
        "memory_ratio": (inputs + memory) / kept,
        "difference": gap,
    }


def measure(name, contender, mode, device, threads, dtype):
    """What a fresh process prints: one measurement as JSON."""
    torch.set_num_threads(threads)
    alone, kind = mode.startswith("attend"), getattr(torch, dtype)

    def check():
        if contender in PEERS:
            return None
        gap = difference(name, contender, device, kind, alone)
        if not gap < GAPS[dtype]:
            raise ArithmeticError(f"its result differs from the loop by {gap:.1e}")
        return gap

    way = measure_alone if alone else measure_encoder
    return way(name, contender, mode, device, kind, check)


def measure_encoder(name, contender, mode, device, dtype, check):
    """From atoms to tokens, beside the floor."""
    pairs = contender.endswith(PAIRS)
    problem = Problem(name, device, dtype, grad=mode == "train", pairs=pairs)
    step_of = train_step if mode == "train" else infer
    made = CONTENDERS[contender](problem)
    memory = first_memory(made, mode == "train", device)
    gap = check()
    step, base = step_of(made), step_of(floor(problem))
    clock(base, device)
    first = clock(step, device)
    rounds = max(3, min(15, int(5 / max(first, 1e-4))))
    times = [(clock(base, device), clock(step, device)) for _ in range(rounds)]
    base, mine = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "atoms": len(problem.index),
        "pairs": problem.pairs,
        "seconds": mine,
        "floor": base,
        "ratio": mine / base,
        "memory": memory,
        "memory_ratio": memory
        / (len(problem.index) * 3 * H * D * problem.x.element_size()),
        "difference": gap,
    }


def ask(name, contender, mode, args):
    """Measure in a fresh process; what goes wrong there is a result, too."""
    command = [sys.executable, __file__, "--one", name, contender, mode]
    command += ["--device", args.device, "--threads", str(args.threads)]
    command += ["--dtype", args.dtype]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=args.timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"over {args.timeout} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        return {"error": f"killed by signal {-done.returncode}"}
    lines = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", done.stderr, re.MULTILINE)
    return {"error": lines[-1][:160].split(". ")[0] if lines else "failed"}


MILLION = "residues-1000000"
# On a GPU more atoms, so that it is busy.
MIXES = {
    "cpu": ("residues", "drug", "mixed"),
    "cuda": (MILLION, "drug", "mixed"),
}
SIZES = tuple(f"size-{4**power}-65536" for power in range(7))
COUNTS = tuple(f"residues-{10**power}" for power in range(3, 7))
SWEPT = (
    "pyg_atomenc auto",
    "PyG edges + softmax + scatter",
    "to_dense_batch + SDPA",
)


def table(results, mixes):
    """The mixes as Markdown."""
    lines = []
    titles = {"infer": "Inference", "train": "Forward and backward"}
    for mode, title in titles.items():
        lines += [f"**{title}**: time × floor, peak memory × one [N, 3·H·d] tensor", ""]
        heads = []
        for mix in mixes:
            found = [r for (n, _, m), r in results.items() if (n, m) == (mix, mode)]
            found = [r for r in found if "ratio" in r]
            base = statistics.median(r["floor"] for r in found) if found else 0
            atoms = found[0]["atoms"] if found else 0
            heads.append(f"{mix} ({atoms:,} atoms, floor {1e3 * base:.0f} ms)")
        lines += ["| contender | " + " | ".join(heads) + " |", "|---" * 4 + "|"]
        reasons = []
        for contender in CONTENDERS:
            if not any((mix, contender, mode) in results for mix in mixes):
                continue
            cells = []
            for mix in mixes:
                found = results.get((mix, contender, mode), {"error": "not run"})
                if "error" in found:
                    if found["error"] not in reasons:
                        reasons.append(found["error"])
                    cells.append(f"– ({reasons.index(found['error']) + 1})")
                else:
                    cells.append(f"{found['ratio']:.2f} ×, {found['memory_ratio']:.2f}")
            lines.append(f"| {contender} | " + " | ".join(cells) + " |")
        lines += ["", *[f"({i + 1}) {r}  " for i, r in enumerate(reasons)], ""]
    return lines


def alone_table(results):
    """Attention and pooling alone, as Markdown."""
    rows = ["forward", "forward and backward"]
    lines = [f"| contender | {rows[0]} | {rows[1]} |", "|---" * 3 + "|"]
    for contender in ATTENTIONS:
        cells = []
        for mode in ("attend infer", "attend train"):
            found = results.get((MILLION, contender, mode), {"error": "not run"})
            cells.append(
                f"– ({found['error']})"
                if "error" in found
                else f"{1e3 * found['seconds']:.2f} ms, {found['share']:.0%} of the "
                f"copy, memory {found['memory_ratio']:.2f} × inputs and outputs"
            )
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    found = [r["bandwidth"] for r in results.values() if "bandwidth" in r]
    copied = statistics.median(found) if found else 0
    return [f"A copy moves {copied / 1e9:.0f} GB/s.", "", *lines, ""]


def sweep_table(results, points, label):
    """A sweep as Markdown: milliseconds and megabytes."""
    lines = [f"| {label} | floor | " + " | ".join(SWEPT) + " |", "|---" * 5 + "|"]
    for point in points:
        floors = [results.get((point, c, "train"), {}).get("floor") for c in SWEPT]
        floors = [seconds for seconds in floors if seconds]
        base = f"{1e3 * statistics.median(floors):.1f} ms" if floors else "–"
        cells = [f"{int(point.split('-')[1]):,}", base]
        for contender in SWEPT:
            found = results.get((point, contender, "train"), {"error": ""})
            cells.append(
                "–"
                if "error" in found
                else f"{1e3 * found['seconds']:.1f} ms, {found['memory'] / 1e6:.0f} MB"
            )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def plot(results, path, mixes):
    """Ratios to the floor, and both sweeps."""
    require_package("matplotlib", "attention.py").use("Agg")
    pyplot = require_package("matplotlib.pyplot", "attention.py")
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    bars = 0
    for contender in CONTENDERS:
        found = [results.get((mix, contender, "train"), {}) for mix in mixes]
        heights = [r.get("ratio", 0) for r in found]
        if any(heights):
            places = [j + 0.1 * bars for j in range(len(mixes))]
            axes[0].bar(places, heights, 0.1, label=contender)
            bars += 1
    axes[0].axhline(1, color="black", linewidth=0.8)
    axes[0].set(yscale="log", ylabel="forward + backward, × floor")
    axes[0].set_xticks([j + 0.3 for j in range(len(mixes))], mixes)
    axes[0].legend(fontsize=7)
    panels = [
        (SIZES, "atoms in a token, of 65,536 atoms"),
        (COUNTS, "atoms, in residue-sized tokens"),
    ]
    for axis, (points, label) in zip(axes[1:], panels, strict=True):
        for contender in SWEPT:
            found = [
                (int(point.split("-")[1]), results[point, contender, "train"])
                for point in points
                if "seconds" in results.get((point, contender, "train"), {})
            ]
            if found:
                xs, rows = zip(*found, strict=True)
                axis.plot(xs, [r["seconds"] for r in rows], "o-", label=contender)
        base = results.get((points[0], SWEPT[0], "train"), {})
        if "floor" in base:
            rows = [(p, results.get((p, SWEPT[0], "train"), {})) for p in points]
            rows = [(int(p.split("-")[1]), r["floor"]) for p, r in rows if "floor" in r]
            axis.plot(*zip(*rows, strict=True), "k--", label="floor")
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_ylabel("seconds, forward + backward")
        axis.legend(fontsize=7)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=GAPS, help="default: bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=240, help="seconds a process")
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument("--no-sweeps", action="store_true")
    parser.add_argument("--only", default="", help="contenders whose name has this")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    gpu = args.device == "cuda"
    if gpu and not torch.cuda.is_available():
        parser.error("'--device' is 'cuda', but torch finds no CUDA device here")
    args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
    if args.one:
        print(json.dumps(measure(*args.one, args.device, args.threads, args.dtype)))
        return

    require_package("matplotlib", "attention.py")
    mixes = MIXES[args.device]
    jobs = [(n, c, m) for m in ("infer", "train") for n in mixes for c in CONTENDERS]
    if gpu:
        modes = ("attend infer", "attend train")
        jobs += [(MILLION, c, m) for m in modes for c in ATTENTIONS]
    if not args.no_sweeps:
        jobs += [(n, c, "train") for n in (*SIZES, *COUNTS) for c in SWEPT]
    results = {}
    jobs = [job for job in jobs if args.only in job[1]]
    for job in tqdm(jobs, unit="process"):
        results[job] = found = ask(*job, args)
        shown = found.get("error") or f"{1e3 * found['seconds']:.1f} ms"
        tqdm.write(f"{', '.join(job)}: {shown}")

    name = "CPU"
    if gpu:
        name = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    lines = [f"{name}, {args.threads} threads, torch {torch.__version__}, {args.dtype}"]
    lines += ["", *table(results, mixes)]
    if gpu:
        lines += [f"**Attention and pooling alone**, {MILLION}", ""]
        lines += alone_table(results)
    if not args.no_sweeps:
        lines += ["**65,536 atoms, by token size** (forward and backward)", ""]
        lines += sweep_table(results, SIZES, "atoms a token")
        lines += ["**Residue-sized tokens, by atoms** (forward and backward)", ""]
        lines += sweep_table(results, COUNTS, "atoms")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "benchmark.md").write_text("\n".join(lines), encoding="utf-8")
    plot(results, args.out / "benchmark.svg", mixes)
    print("\n".join(lines))
    print(f"written: {args.out / 'benchmark.md'}, {args.out / 'benchmark.svg'}")


if __name__ == "__main__":
    main()
