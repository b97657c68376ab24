"""Time and memory of the Boltz encoder, beside the `boltz` package itself.

    pip install --no-deps boltz==2.2.1 einops fairscale && pip install scipy
    python examples/benchmarks/boltz_encoder.py --out docs/images

Random weights, one structure of 8 atoms a token, float32, default sizes, the encoder of
the diffusion model. Both run in one fresh process for each size, in turns, on the same
weights and inputs, and are not timed if their results differ; a process of its own
measures the peak memory of each one's first full pass. A full pass is conditioning and
encoding; a step encodes with what the first pass has kept. A second table shows how
time and memory grow with the atoms where there is no pair tensor, in the form that
embeds the inputs. Writes `benchmark_boltz.md` and `benchmark_boltz.svg`. Needs the
extra `plot`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from attention import clock, memory_peak, memory_reset
from torch.nn import functional as F
from tqdm import tqdm

from pyg_atomenc.checkpoints import to_boltz_state_dict
from pyg_atomenc.errors import require_package
from pyg_atomenc.nn import BoltzAtomEncoder, BoltzConfig

ATOMS = 8
SIZES = (128, 256, 512, 1024)
GROWTH = (1_024, 4_096, 16_384, 65_536)


def draw(tokens):
    """Flat inputs of one structure."""
    generator = torch.Generator().manual_seed(0)
    atoms = ATOMS * tokens
    index = torch.arange(tokens).repeat_interleave(ATOMS)
    inputs = {
        "ref_pos": 3 * torch.randn(atoms, 3, generator=generator),
        "ref_charge": torch.zeros(atoms),
        "z": torch.randint(1, 20, (atoms,), generator=generator),
        "ref_atom_name_chars": torch.randint(0, 64, (atoms, 4), generator=generator),
        "ref_space_uid": index,
        "atom_to_token": index,
    }
    return inputs, torch.randn(atoms, 3, generator=generator)


def encoder_of(config):
    """With weights everywhere, those that start at zero included."""
    torch.manual_seed(0)
    encoder = BoltzAtomEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.size(1) ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def ours(version, tokens):
    """A full pass and a step of this package."""
    config = getattr(BoltzConfig, f"boltz{version}")()
    encoder = encoder_of(config)
    inputs, r = draw(tokens)
    s = torch.randn(tokens, config.token_channels)
    z = torch.randn(tokens**2, config.token_pair_channels)

    def full():
        conditioning = encoder.condition(**inputs, s_trunk=s, z_trunk=z)
        return conditioning, encoder(conditioning, r).tokens

    def step(kept):
        return encoder(kept, r).tokens

    return full, step, (encoder, inputs, r, s, z)


def theirs(version, tokens, problem):
    """The same of the `boltz` package, with the same weights."""
    encoder, inputs, r, s, z = problem
    feats = {
        "ref_pos": inputs["ref_pos"],
        "ref_charge": inputs["ref_charge"],
        "ref_element": F.one_hot(inputs["z"], 128).float(),
        "ref_atom_name_chars": F.one_hot(inputs["ref_atom_name_chars"], 64).float(),
        "ref_space_uid": inputs["ref_space_uid"],
        "atom_pad_mask": torch.ones(len(r)),
        "atom_to_token": F.one_hot(inputs["atom_to_token"], tokens).float(),
    }
    feats = {name: value.unsqueeze(0) for name, value in feats.items()}
    s, z, r = s[None], z.view(1, tokens, tokens, -1), r[None]
    state = to_boltz_state_dict(encoder)
    sizes = (128, 16, 384, 128, 32, 128)

    def load(module, prefix):
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        module.load_state_dict(found)
        return module

    score = "structure_module.score_model.atom_attention_encoder."
    if version == 1:
        from boltz.model.modules.encoders import AtomAttentionEncoder

        module = load(AtomAttentionEncoder(*sizes, 389), score)

        def full():
            cache = {}
            return cache, module(feats, s, z, r, model_cache=cache)[0][0]

        return full, lambda kept: module(feats, s, z, r, model_cache=kept)[0][0]

    from boltz.model.modules.encodersv2 import AtomAttentionEncoder, AtomEncoder

    embed = load(AtomEncoder(*sizes, 388), "diffusion_conditioning.atom_encoder.")
    module = load(AtomAttentionEncoder(128, 384, 32, 128), score)
    layers = torch.nn.ModuleList(
        torch.nn.Sequential(torch.nn.LayerNorm(16), torch.nn.Linear(16, 4, bias=False))
        for _ in range(3)
    )
    load(layers, "diffusion_conditioning.atom_enc_proj_z.")

    def full():
        q, c, pairs, to_keys = embed(feats, s, z)
        bias = torch.cat([layer(pairs) for layer in layers], -1)
        kept = (q, c, bias, to_keys)
        return kept, module(feats, *kept, r)[0][0]

    return full, lambda kept: module(feats, *kept, r)[0][0]


@torch.no_grad()
def compare(version, tokens):
    """Medians of both, in turns."""
    own_full, own_step, problem = ours(version, tokens)
    full, step = theirs(version, tokens, problem)
    (own_kept, own), (kept, expected) = own_full(), full()
    for found in (own, own_step(own_kept), step(kept)):
        gap = ((found - expected).abs().max() / expected.abs().max()).item()
        if not gap < 2e-5:
            raise ArithmeticError(f"the results differ by {gap:.1e}")
    rounds = 5 if tokens > 512 else 15
    runs = {
        "full": (full, own_full),
        "step": (lambda: step(kept), lambda: own_step(own_kept)),
    }
    found = {}
    for name, pair in runs.items():
        times = [[clock(one, "cpu") for one in pair] for _ in range(rounds)]
        found[name] = [statistics.median(column) for column in zip(*times, strict=True)]
    return found


@torch.no_grad()
def memory(version, tokens, which):
    """Growth of this process' peak in a first full pass, in bytes."""
    full, _, problem = ours(version, tokens)
    if which == "boltz":
        full, _ = theirs(version, tokens, problem)
    before = memory_reset("cpu")
    full()
    return memory_peak("cpu") - before


@torch.no_grad()
def growth(atoms):
    """Seconds and bytes of the form without a pair tensor."""
    encoder = encoder_of(BoltzConfig.boltz2("trunk"))
    inputs, _ = draw(atoms // ATOMS)

    def full():
        return encoder(encoder.condition(**inputs)).tokens

    before = memory_reset("cpu")
    full()
    peak = memory_peak("cpu") - before
    return [statistics.median(clock(full, "cpu") for _ in range(5)), peak]


def ask(*arguments):
    """Call one of the functions above in a fresh process."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def answer(name, *arguments):
    numbers = [int(a) if a.isdigit() else a for a in arguments]
    return {"compare": compare, "memory": memory, "growth": growth}[name](*numbers)


def plot(rows, path):
    """Seconds and bytes over tokens."""
    require_package("matplotlib", "boltz_encoder.py").use("Agg")
    pyplot = require_package("matplotlib.pyplot", "boltz_encoder.py")
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for axis, key in zip(axes, ("full", "step", "memory"), strict=True):
        for version in (1, 2):
            for place, label in ((0, f"boltz {version}"), (1, f"ours, {version}")):
                points = [
                    (t, r[key][place]) for (v, t), r in rows.items() if v == version
                ]
                axis.plot(*zip(*points, strict=True), "o-", label=label)
        unit = "bytes" if key == "memory" else "seconds"
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel=f"{key}, {unit}")
        axis.legend(fontsize=7)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(answer(*args.one)))
        return
    require_package("matplotlib", "boltz_encoder.py")

    lines = [
        f"CPU, {args.threads} threads, torch {torch.__version__}, float32: boltz, "
        f"ours, and how many times less",
        "",
        "| version | tokens | atoms | full pass | cached step | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    rows = {}
    for version, tokens in tqdm([(v, t) for v in (1, 2) for t in SIZES]):
        row = ask("compare", version, tokens)
        row["memory"] = [ask("memory", version, tokens, w) for w in ("boltz", "ours")]
        rows[version, tokens] = row
        cells = [f"Boltz-{version}", f"{tokens:,}", f"{ATOMS * tokens:,}"]
        for name in ("full", "step", "memory"):
            scale, unit = (1e-6, "MB") if name == "memory" else (1e3, "ms")
            one, other = row[name]
            cells.append(
                f"{scale * one:,.0f} {unit}, {scale * other:,.0f} {unit}: "
                f"{one / other:.1f} ×"
            )
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| atoms, no pair tensor | full pass | peak memory |",
        "|---|---|---|",
    ]
    for atoms in tqdm(GROWTH):
        seconds, peak = ask("growth", atoms)
        lines.append(f"| {atoms:,} | {1e3 * seconds:,.0f} ms | {peak / 1e6:,.0f} MB |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "benchmark_boltz.md").write_text("\n".join(lines), encoding="utf-8")
    plot(rows, args.out / "benchmark_boltz.svg")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
