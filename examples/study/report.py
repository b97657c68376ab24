"""Tables and a plot of the study's results.

    python examples/study/report.py --out outputs/study --images docs/images

Differences are paired: the same split and seed. Their 95 % intervals are Student's t
over seeds, with the variance of Nadeau and Bengio (Machine Learning 52 (2003) 239),
which is larger by test/train · n, since splits of one set share molecules.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from models import POOLINGS, SIMPLE
from molecules import TOKENIZERS

from pyg_atomenc.errors import require_package

TOKEN_NAMES = {
    "brics": "BRICS",
    "rings": "RingsAndChains",
    "smarts": "Smarts",
    "random": "random, sizes of BRICS",
}
SETS = {"freesolv": "FreeSolv", "esol": "ESOL", "lipophilicity": "Lipophilicity"}
UNITS = {"freesolv": "kcal/mol", "esol": "log mol/L", "lipophilicity": "log D"}
FIXED = ("task", "data", "split")


def paired(ours, others):
    """Mean of the differences of two lists of results, and half its 95 % interval.

    Of seeds that both have: (number, mean, half).
    """
    others = {r["seed"]: r for r in others}
    pairs = [(r, others[r["seed"]]) for r in ours if r["seed"] in others]
    differences = [a["test_error"] - b["test_error"] for a, b in pairs]
    count = len(differences)
    if count < 2:
        return count, statistics.fmean(differences or [math.nan]), math.nan
    sizes = pairs[0][0]["sizes"]
    variance = statistics.variance(differences)
    variance *= 1 / count + sizes["test"] / sizes["train"]
    quantile = require_package("scipy.stats", "the intervals").t.ppf(0.975, count - 1)
    return count, statistics.fmean(differences), float(quantile) * math.sqrt(variance)


class Results:
    """Results by setting (task, data, split) and arm (tokens, pooling).

    Of a grid that was stopped, only the seeds that all arms of a setting have count.
    """

    def __init__(self, rows):
        self.by_arm = {}
        for row in rows:
            setting = tuple(row[name] for name in FIXED)
            arm = (row["tokens"], row["pooling"])
            self.by_arm.setdefault(setting, {}).setdefault(arm, []).append(row)
        for setting, arms in self.by_arm.items():
            every = [row for rows in arms.values() for row in rows]
            if len({(row["epochs"], row["limit"]) for row in every}) > 1:
                text = f"the results of {setting} have several budgets or sizes"
                raise SystemExit(f"{text}: run each into an --out of its own.")
            common = set.intersection(*({r["seed"] for r in a} for a in arms.values()))
            for arm, rows in arms.items():
                arms[arm] = [row for row in rows if row["seed"] in common]
        self.settings = list(self.by_arm)

    def mean(self, setting, arm, name="test_error"):
        """An arm's mean error over seeds."""
        return statistics.fmean(row[name] for row in self.by_arm[setting][arm])

    def control(self, setting):
        """The simple pooling with the lowest mean error in validation, not in test."""
        arms = [("brics", pooling) for pooling in SIMPLE]
        arms = [arm for arm in arms if arm in self.by_arm[setting]]
        return min(arms, key=lambda arm: self.mean(setting, arm, "valid_error"))

    def difference(self, setting, arm, other):
        """What `paired` gives for two arms."""
        return paired(self.by_arm[setting][arm], self.by_arm[setting][other])

    def cell(self, setting, arm, other):
        """Such as 0.67 (−0.02 ± 0.03), bold where the interval is on one side of 0."""
        if arm not in self.by_arm[setting]:
            return "–"
        mean = f"{self.mean(setting, arm):.3f}"
        if arm == other:
            return f"{mean} (control)"
        _, shift, half = self.difference(setting, arm, other)
        text = f"{shift:+.3f} ± {half:.3f}"
        return f"{mean} (**{text}**)" if abs(shift) > half else f"{mean} ({text})"


def title(setting):
    task, data, kind = setting
    if task != "molecule":
        names = {"sum": "sum of atoms", "max": "largest atom"}
        return f"fragments: {names[task.removeprefix('fragment-')]}"
    return f"{SETS.get(data, data)}, {kind}"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def poolings_table(results, settings):
    """Poolings with BRICS, each against the strongest simple control."""
    known = {arm for s in settings for arm in results.by_arm[s]}
    order = [*POOLINGS, "random forest", "mean of training"]
    arms = [("brics", p) for p in order if ("brics", p) in known]
    controls = [results.control(setting) for setting in settings]
    rows = []
    for arm in arms:
        first = next(s for s in settings if arm in results.by_arm[s])
        count = results.by_arm[first][arm][0].get("parameters")
        cells = [
            results.cell(setting, arm, control)
            for setting, control in zip(settings, controls, strict=True)
        ]
        rows.append([arm[1], f"{count:,}" if count else "–", *cells])
    return _table(["pooling", "parameters", *map(title, settings)], rows)


def attention_table(results, settings):
    """The encoder against the same reduction without attention, same tokens."""
    rows = []
    for tokens in TOKENIZERS:
        for reduce in ("mean", "sum"):
            ours, plain = (tokens, f"ours, {reduce}"), (tokens, reduce)
            both = [{ours, plain} <= set(results.by_arm[s]) for s in settings]
            if any(both):
                pairs = zip(settings, both, strict=True)
                cells = [results.cell(s, ours, plain) if b else "–" for s, b in pairs]
                rows.append([f"{ours[1]} − {reduce}", TOKEN_NAMES[tokens], *cells])
    return _table(["pooling", "tokens", *map(title, settings)], rows)


def tokens_table(results, settings):
    """Kinds of tokens, each against BRICS with the same pooling."""
    known = {arm for s in settings for arm in results.by_arm[s]}
    poolings = [p for p in POOLINGS if ("random", p) in known]
    rows = [
        [pooling, TOKEN_NAMES[tokens]]
        + [results.cell(s, (tokens, pooling), ("brics", pooling)) for s in settings]
        for pooling in poolings
        for tokens in TOKENIZERS
    ]
    return _table(["pooling", "tokens", *map(title, settings)], rows)


def seeds(results):
    """How many seeds every setting has, and how many molecules."""
    found = []
    for setting, arms in results.by_arm.items():
        rows = next(iter(arms.values()))
        sizes = " / ".join(str(rows[0]["sizes"][k]) for k in ("train", "valid", "test"))
        # Crippen's contributions are to logP.
        unit = UNITS.get(setting[1], "") if setting[0] == "molecule" else "logP"
        found.append([title(setting), unit, str(len(rows)), sizes])
    head = ["setting", "unit", "seeds", "training / validation / test molecules"]
    return _table(head, found)


def plot(results, path):
    """Differences to the strongest simple control, with their intervals."""
    plt = require_package("matplotlib.pyplot", "the plot")
    # The same file from the same numbers.
    plt.rcParams["svg.hashsalt"] = "evidence"
    settings = results.settings
    columns = min(2, len(settings))
    lines = -(-len(settings) // columns)
    size = (5.5 * columns, 4.2 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(settings) :]:
        axis.set_axis_off()
    for axis, setting in zip(axes.flat, settings, strict=False):
        control = results.control(setting)
        skipped = (control, ("brics", "mean of training"))
        order = [(t, p) for t in TOKENIZERS for p in (*POOLINGS, "random forest")]
        arms = [a for a in order if a in results.by_arm[setting] and a not in skipped]
        for place, arm in enumerate(reversed(arms)):
            _, shift, half = results.difference(setting, arm, control)
            color = "tab:blue" if arm[1].startswith("ours") else "tab:gray"
            half = 0.0 if math.isnan(half) else half
            axis.errorbar(shift, place, xerr=half, fmt="o", color=color, capsize=2)
        names = [p if t == "brics" else f"{p} · {t}" for t, p in reversed(arms)]
        axis.set_yticks(range(len(arms)), names, fontsize=7)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(f"{title(setting)}: error minus that of “{control[1]}”")
        axis.title.set_fontsize(9)
        axis.set_xlabel("left of 0 is better", fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(rows, out, images):
    """Print the tables, and write them to `tables.md`, the plot to `evidence.svg`."""
    results = Results(rows)
    molecules = [s for s in results.settings if s[0] == "molecule"]
    fragments = [s for s in results.settings if s[0] != "molecule"]
    tables = [seeds(results)]
    if molecules:
        tables += [poolings_table(results, molecules), tokens_table(results, molecules)]
    if fragments:
        tables.append(poolings_table(results, fragments))
    tables.append(attention_table(results, results.settings))
    text = "\n\n".join(tables) + "\n"
    print(text)
    (out / "tables.md").write_text(text, encoding="utf-8")
    plot(results, images / "evidence.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="of run.py")
    parser.add_argument("--images", type=Path, help="for the plot (default: --out)")
    args = parser.parse_args()
    with open(args.out / "results.jsonl", encoding="utf-8") as file:
        # Its last line may be half there while the study runs.
        rows = [json.loads(line) for line in file if line.endswith("\n")]
    write(rows, args.out, args.images or args.out)


if __name__ == "__main__":
    main()
