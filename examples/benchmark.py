"""Time and memory of the encoder, beside what else one could use, from x to tokens.

    python examples/benchmark.py --out docs/images

Every contender gets the same atoms, tokens and weights (float32, 128 channels, 4 heads
of 32). It runs in a fresh process, which measures the peak memory of the first run,
compares the result with a loop over tokens in float64 on a smaller draw, refuses to
time it if they differ, and else times it in turns with the floor: LayerNorm and one
[C, 3 * H * d] matrix product on the same atoms. What depends on the batch alone
(layouts, edge lists, masks) is made before. Writes `benchmark.md` and `benchmark.svg`.
Needs matplotlib and tqdm.
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
from torch.nn import functional as F
from torch_geometric.nn import TransformerConv, global_mean_pool
from torch_geometric.utils import scatter, softmax, to_dense_batch
from tqdm import tqdm

from pyg_atomenc import AtomAttentionEncoder, TokenLayout

C, H, D = 128, 4, 32
# Beyond this many numbers in memory a contender is not started.
LIMIT = 3.5e9


def draw(name, generator):
    """Token sizes by the name of a mix, or of a point of a sweep."""

    def between(low, high, count):
        return torch.randint(low, high + 1, (count,), generator=generator)

    kind, *numbers = name.split("-")
    numbers = [int(number) for number in numbers]
    if kind == "residues":
        # `residues-1000`: tokens of 4 to 14 atoms, about 1000 atoms in all.
        return between(4, 14, numbers[0] // 9 if numbers else 12_000)
    if kind == "drug":
        return between(20, 36, 3_000)
    if kind == "mixed":
        parts = [torch.ones(1_800).long(), between(2, 14, 4_194), between(300, 1500, 6)]
        return torch.cat(parts)[torch.randperm(6_000, generator=generator)]
    size, atoms = numbers
    return torch.full((atoms // size,), size)


class Problem:
    """Atoms, tokens and weights, all from one seed."""

    def __init__(
        self, name, device, dtype=torch.float32, share=1.0, grad=False, pairs=False
    ):
        generator = torch.Generator().manual_seed(0)
        sizes = draw(name, generator)
        if share < 1.0:
            sizes = sizes[: max(3, int(share * len(sizes)))]
        self.num_tokens = len(sizes)
        self.sizes = sizes
        index = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.index = index.to(device)
        x = torch.randn(len(index), C, generator=generator, dtype=torch.float64)
        self.x = x.to(device, dtype).requires_grad_(grad)
        weight = torch.randn(3, H * D, C, generator=generator, dtype=torch.float64)
        weight = (weight / C**0.5).to(device, dtype)
        self.query, self.key, self.value = (
            w.clone().requires_grad_(grad) for w in weight
        )
        self.bias = None
        if pairs:
            bias = torch.randn(self.pairs, H, generator=generator)
            self.bias = bias.to(device, dtype).requires_grad_(grad)
        self.leaves = [self.x, self.query, self.key, self.value]

    @property
    def pairs(self):
        """Atom pairs inside tokens."""
        return int((self.sizes**2).sum())

    def heads(self):
        """LayerNorm and projections: q, k, v, each [N, H, D]."""
        h = F.layer_norm(self.x, (C,))
        return [F.linear(h, w).view(-1, H, D) for w in self.leaves[1:]]

    def mean(self, out):
        """Tokens [T, H * D] from atoms [N, H * D]."""
        return global_mean_pool(out, self.index, self.num_tokens)


def require(numbers, what):
    """Stop where a contender would need more than LIMIT numbers."""
    if numbers > LIMIT:
        raise MemoryError(f"not started: {what} of {numbers:.1e} numbers")


def floor(problem):
    """LayerNorm and one matrix product."""
    weight = torch.cat(problem.leaves[1:]).detach().requires_grad_()

    def run():
        return F.linear(F.layer_norm(problem.x, (C,)), weight)

    return run, [problem.x, weight]


def package(backend):
    """This package's encoder, given a layout."""

    def make(problem):
        edge_dim = None if problem.bias is None else H
        encoder = AtomAttentionEncoder(C, D, H, backend=backend, edge_dim=edge_dim)
        encoder.lin_query.weight = torch.nn.Parameter(problem.query.detach())
        encoder.lin_key.weight = torch.nn.Parameter(problem.key.detach())
        encoder.lin_value.weight = torch.nn.Parameter(problem.value.detach())
        layout = TokenLayout.from_index(problem.index, problem.num_tokens)
        if backend == "edges":
            require(4 * layout.num_pairs * H * D, "edges")
        leaves = [problem.x, *encoder.parameters()]
        if problem.bias is not None:
            encoder.lin_edge.weight = torch.nn.Parameter(torch.eye(H))
            leaves = [problem.x, *encoder.parameters(), problem.bias]
        encoder = encoder.to(problem.x.device, problem.x.dtype)
        return lambda: encoder(problem.x, layout, edge_attr=problem.bias), leaves

    return make


def pyg_edges(problem):
    """Edge list, PyG's scatter softmax and scatter, as one writes them by hand."""
    require(4 * problem.pairs * H * D, "edges")
    source, target = TokenLayout.from_index(problem.index).to_edge_index()
    extra = []
    if problem.bias is not None:
        heads = torch.eye(H, device=problem.x.device, dtype=problem.x.dtype)
        extra = [problem.bias, heads.requires_grad_()]

    def run():
        q, k, v = problem.heads()
        logits = (q[target] * k[source]).sum(-1) / D**0.5
        if problem.bias is not None:
            logits = logits + F.linear(problem.bias, heads)
        alpha = softmax(logits, target, num_nodes=len(q))
        out = scatter(alpha.unsqueeze(-1) * v[source], target, 0, len(q), "sum")
        return problem.mean(out.flatten(1))

    return run, [*problem.leaves, *extra]


def transformer_conv(problem):
    """PyG's TransformerConv on the edge list."""
    require(5 * problem.pairs * H * D, "edges")
    edge_index = TokenLayout.from_index(problem.index).to_edge_index()
    conv = TransformerConv(C, D, H, root_weight=False, bias=False)
    conv = conv.to(problem.x.device, problem.x.dtype)
    for name, weight in zip(("query", "key", "value"), problem.leaves[1:], strict=True):
        linear = getattr(conv, f"lin_{name}")
        linear.weight = torch.nn.Parameter(weight.detach())
        if linear.bias is not None:
            torch.nn.init.zeros_(linear.bias)

    def run():
        return problem.mean(conv(F.layer_norm(problem.x, (C,)), edge_index))

    return run, [problem.x, *conv.parameters()]


def padded_sdpa(problem):
    """to_dense_batch, then scaled_dot_product_attention with a mask."""
    width = int(problem.sizes.max())
    require(4 * problem.num_tokens * width * max(width, H * D), "padding")

    def run():
        q, k, v = (t.flatten(1) for t in problem.heads())
        (q, mask), k, v = (
            to_dense_batch(q, problem.index, batch_size=problem.num_tokens),
            to_dense_batch(k, problem.index, batch_size=problem.num_tokens)[0],
            to_dense_batch(v, problem.index, batch_size=problem.num_tokens)[0],
        )
        q, k, v = (t.unflatten(2, (H, D)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        out = (out * mask[:, None, :, None]).sum(2) / mask.sum(1).view(-1, 1, 1)
        return out.flatten(1)

    return run, problem.leaves


def nested_sdpa(problem):
    """scaled_dot_product_attention on nested (jagged) tensors."""
    offsets = torch.cat([torch.zeros(1).long(), problem.sizes.cumsum(0)])
    offsets = offsets.to(problem.x.device)
    width = int(problem.sizes.max())

    def run():
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                t.contiguous(), offsets, min_seqlen=1, max_seqlen=width
            ).transpose(1, 2)
            for t in problem.heads()
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return problem.mean(out.values().flatten(1))

    return run, problem.leaves


def flex(problem):
    """flex_attention, compiled, with a mask that joins atoms of one token."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    count, index = len(problem.index), problem.index
    mask = torch.compile(create_block_mask)(
        lambda b, h, q, k: index[q] == index[k], None, None, count, count, index.device
    )
    compiled = torch.compile(flex_attention)

    def run():
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in problem.heads())
        out = compiled(q, k, v, block_mask=mask)
        return problem.mean(out.squeeze(0).transpose(0, 1).flatten(1))

    return run, problem.leaves


def varlen(problem):
    """torch.nn.attention.varlen, which runs on CUDA in half types."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.cat([torch.zeros(1).long(), problem.sizes.cumsum(0)])
    ends = ends.int().to(problem.x.device)
    width = int(problem.sizes.max())

    def run():
        q, k, v = problem.heads()
        out = varlen_attn(q, k, v, ends, ends, width, width)
        return problem.mean(out.flatten(1))

    return run, problem.leaves


# Behind this in a contender's name, it gets a bias for every pair of atoms.
PAIRS = ", pair bias"

CONTENDERS = {
    "pyg_atomenc auto": package("auto"),
    "pyg_atomenc edges": package("edges"),
    "PyG edges + softmax + scatter": pyg_edges,
    "PyG TransformerConv": transformer_conv,
    "to_dense_batch + SDPA": padded_sdpa,
    "nested tensor SDPA": nested_sdpa,
    "flex_attention": flex,
    "varlen_attn": varlen,
    "pyg_atomenc auto" + PAIRS: package("auto"),
    "PyG edges + softmax + scatter" + PAIRS: pyg_edges,
}


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


def loop(problem):
    """Token by token, as the formulas say."""
    q, k, v = problem.heads()
    ends, pairs = problem.sizes.cumsum(0).tolist(), (problem.sizes**2).cumsum(0)
    tokens = []
    for size, end, last in zip(problem.sizes.tolist(), ends, pairs, strict=True):
        rows = slice(end - size, end)
        logits = torch.einsum("ahd,bhd->hab", q[rows], k[rows]) / D**0.5
        if problem.bias is not None:
            bias = problem.bias[last - size**2 : last].view(size, size, H)
            logits = logits + bias.permute(2, 0, 1)
        out = torch.einsum("hab,bhd->ahd", logits.softmax(-1), v[rows])
        tokens.append(out.mean(0).flatten())
    return torch.stack(tokens)


def difference(name, contender, device):
    """From a loop over tokens in float64, relative to the largest value."""
    options = {"share": 0.05, "pairs": contender.endswith(PAIRS)}
    expected = loop(Problem(name, "cpu", torch.float64, **options))
    found = CONTENDERS[contender](Problem(name, device, **options))[0]()
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
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name, contender, mode, device, threads):
    """What a fresh process prints: one measurement as JSON."""
    torch.set_num_threads(threads)
    pairs = contender.endswith(PAIRS)
    problem = Problem(name, device, grad=mode == "train", pairs=pairs)
    step_of = train_step if mode == "train" else infer
    made = CONTENDERS[contender](problem)
    before = memory_reset(device)
    if mode == "train":
        out = torch.ones(problem.num_tokens, H * D, device=device)
        made[0]().backward(out)
    else:
        infer(made)()
    memory = memory_peak(device) - before
    gap = difference(name, contender, device)
    if not gap < 1e-4:
        raise ArithmeticError(f"its result differs from the loop by {gap:.1e}")
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
        "memory_ratio": memory / (len(problem.index) * 3 * H * D * 4),
        "difference": gap,
    }


def ask(name, contender, mode, args):
    """Measure in a fresh process; what goes wrong there is a result, too."""
    command = [sys.executable, __file__, "--one", name, contender, mode]
    command += ["--device", args.device, "--threads", str(args.threads)]
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


MIXES = ("residues", "drug", "mixed")
SIZES = tuple(f"size-{4**power}-65536" for power in range(7))
COUNTS = tuple(f"residues-{10**power}" for power in range(3, 7))
SWEPT = (
    "pyg_atomenc auto",
    "PyG edges + softmax + scatter",
    "to_dense_batch + SDPA",
)


def table(results):
    """The mixes as Markdown."""
    lines = []
    titles = {"infer": "Inference", "train": "Forward and backward"}
    for mode, title in titles.items():
        lines += [f"**{title}**: time × floor, peak memory × one [N, 3·H·d] tensor", ""]
        heads = []
        for mix in MIXES:
            found = [r for (n, _, m), r in results.items() if (n, m) == (mix, mode)]
            found = [r for r in found if "ratio" in r]
            base = statistics.median(r["floor"] for r in found) if found else 0
            atoms = found[0]["atoms"] if found else 0
            heads.append(f"{mix} ({atoms:,} atoms, floor {1e3 * base:.0f} ms)")
        lines += ["| contender | " + " | ".join(heads) + " |", "|---" * 4 + "|"]
        reasons = []
        for contender in CONTENDERS:
            if not any((mix, contender, mode) in results for mix in MIXES):
                continue
            cells = []
            for mix in MIXES:
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


def plot(results, path):
    """Ratios to the floor, and both sweeps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    bars = 0
    for contender in CONTENDERS:
        found = [results.get((mix, contender, "train"), {}) for mix in MIXES]
        heights = [r.get("ratio", 0) for r in found]
        if any(heights):
            places = [j + 0.1 * bars for j in range(len(MIXES))]
            axes[0].bar(places, heights, 0.1, label=contender)
            bars += 1
    axes[0].axhline(1, color="black", linewidth=0.8)
    axes[0].set(yscale="log", ylabel="forward + backward, × floor")
    axes[0].set_xticks([j + 0.3 for j in range(len(MIXES))], MIXES)
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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=240, help="seconds a process")
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument("--no-sweeps", action="store_true")
    parser.add_argument("--only", default="", help="contenders whose name has this")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.device, args.threads)))
        return

    jobs = [(n, c, m) for m in ("infer", "train") for n in MIXES for c in CONTENDERS]
    if not args.no_sweeps:
        jobs += [(n, c, "train") for n in (*SIZES, *COUNTS) for c in SWEPT]
    results = {}
    jobs = [job for job in jobs if args.only in job[1]]
    for job in tqdm(jobs, unit="process"):
        results[job] = ask(*job, args)

    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    lines = [f"{name}, {args.threads} threads, torch {torch.__version__}, float32", ""]
    lines += table(results)
    if not args.no_sweeps:
        lines += ["**65,536 atoms, by token size** (forward and backward)", ""]
        lines += sweep_table(results, SIZES, "atoms a token")
        lines += ["**Residue-sized tokens, by atoms** (forward and backward)", ""]
        lines += sweep_table(results, COUNTS, "atoms")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "benchmark.md").write_text("\n".join(lines), encoding="utf-8")
    plot(results, args.out / "benchmark.svg")
    print("\n".join(lines))
    print(f"written: {args.out / 'benchmark.md'}, {args.out / 'benchmark.svg'}")


if __name__ == "__main__":
    main()
