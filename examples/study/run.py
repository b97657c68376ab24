"""Does attention from atoms to tokens help? Ways of pooling, compared on measured data.

    python examples/study/run.py --grid small     # an hour on two cores
    python examples/study/run.py --grid small     # goes on where it was stopped

Every run is one line of `results.jsonl`; those that are there are not run again. Runs
go seed by seed, so a grid that is stopped has fewer seeds, not fewer models. At the
end, and by `report.py` at any time, tables and a plot are made of what is there.

Needs the extras `chem`, `plot` and `structure`, and for the random forest
`pip install scikit-learn`; without it that row is left out.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import report
import torch
from models import POOLINGS
from molecules import TOKENIZERS, load_graphs
from tqdm import tqdm
from training import run

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = {"freesolv": 50, "esol": 30, "lipophilicity": 30}
FRAGMENT_EPOCHS = 15
OTHER_EPOCHS = 10
BESIDE = ("random forest", "mean of training")
# With tokens of every kind; all others with BRICS's alone in the small grid.
WITH_ALL_TOKENS = ("mean", "ours, mean", "ours, sum")


def grid(args):
    """Configurations of all runs, in their order."""
    configs = []
    for seed in range(args.seeds):
        for data in args.data:
            epochs = args.epochs or EPOCHS.get(data, OTHER_EPOCHS)
            for kind in ("random", "scaffold"):
                for tokens, pooling in _arms(args.grid):
                    configs.append(
                        dict(task="molecule", data=data, split=kind, tokens=tokens,
                             pooling=pooling, seed=seed, epochs=epochs)
                    )  # fmt: skip
        for task in args.fragments:
            for pooling in (*POOLINGS, BESIDE[1]):
                configs.append(
                    dict(task=f"fragment-{task}", data="esol", split="random",
                         tokens="brics", pooling=pooling, seed=seed,
                         epochs=args.epochs or FRAGMENT_EPOCHS)
                )  # fmt: skip
    return [{**config, "limit": args.limit} for config in configs]


def _arms(name):
    for tokens in TOKENIZERS:
        for pooling in POOLINGS:
            # Without pooling there are no tokens that could differ.
            few = name == "small" and pooling not in WITH_ALL_TOKENS
            if tokens == "brics" or not (few or pooling == "none"):
                yield tokens, pooling
    for pooling in BESIDE:
        if pooling != "random forest" or importlib.util.find_spec("sklearn"):
            yield "brics", pooling


def read_results(path):
    """The results so far; half a line at the end, left by a kill, is cut off."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def key(config, names):
    return json.dumps({name: config.get(name) for name in names}, sort_keys=True)


def _start_worker():
    torch.set_num_threads(1)
    # A parent that was killed leaves nobody to run for.
    parent = multiprocessing.parent_process()

    def leave():
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def run_all(configs, path, cache, workers):
    """Run what is not in the file, and give all results of these configurations."""
    done = {key(result, configs[0]) for result in read_results(path)}
    todo = [config for config in configs if key(config, configs[0]) not in done]
    print(f"{len(configs)} runs, {len(configs) - len(todo)} of them finished before")
    # Before workers start, so that none makes what another is making.
    for data, tokens in dict.fromkeys((c["data"], c["tokens"]) for c in todo):
        load_graphs(data, tokens, cache, configs[0]["limit"])
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pool, open(path, "a", encoding="utf-8") as file:
        futures = [pool.submit(run, config, cache) for config in todo]
        try:
            for future in tqdm(as_completed(futures), "runs", len(todo), unit="run"):
                file.write(json.dumps(future.result()) + "\n")
                file.flush()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    wanted = {key(config, configs[0]) for config in configs}
    return [r for r in read_results(path) if key(r, configs[0]) in wanted]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", choices=["small", "full"], default="small")
    parser.add_argument(
        "--data", nargs="+", help="freesolv, esol, lipophilicity, moleculenet:HIV ..."
    )
    parser.add_argument(
        "--fragments", nargs="*", choices=["sum", "max"], default=["sum", "max"],
        help="targets of fragments, known by construction",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, help="(default: by the set)")
    parser.add_argument("--limit", type=int, help="so many molecules of a set")
    parser.add_argument("--workers", type=int, default=2, help="of one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "study")
    parser.add_argument("--images", type=Path, help="for the plot (default: --out)")
    args = parser.parse_args()
    sets = ["freesolv", "esol"] + ["lipophilicity"] * (args.grid == "full")
    args.data = args.data or sets
    if not importlib.util.find_spec("sklearn"):
        print("the random forest is left out: pip install scikit-learn")
    # Workers take it over when they start.
    os.environ["OMP_NUM_THREADS"] = "1"
    path = args.out / "results.jsonl"
    results = run_all(grid(args), path, args.out / "graphs", args.workers)
    report.write(results, args.out, args.images or args.out)


if __name__ == "__main__":
    main()
