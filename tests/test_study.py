"""The study in `examples/study`: its splits, tokens, models, statistics, and a run."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch_geometric.data import Batch

STUDY = Path(__file__).parents[1] / "examples" / "study"
NAMES = [path.stem for path in STUDY.glob("*.py")]


@pytest.fixture(scope="module")
def study():
    """The scripts as modules, by their names."""
    for package in ("rdkit", "scipy", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    sys.path.insert(0, str(STUDY))
    for name in NAMES:
        sys.modules.pop(name, None)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    sys.path.remove(str(STUDY))
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def graphs(study, cache):
    return study.molecules.load_graphs("esol", "brics", cache, 60)


def config(**changes):
    known = dict(task="molecule", data="esol", split="random", tokens="brics",
                 pooling="ours, sum", seed=0, epochs=1, limit=60)  # fmt: skip
    return known | changes


def test_graphs_come_from_the_cache_as_they_were_made(study, cache, graphs):
    assert len(graphs) == 60 and len(list(cache.glob("esol-brics-60-*.pt"))) == 1
    again = study.molecules.load_graphs("esol", "brics", cache, 60)
    for one, other in zip(graphs, again, strict=True):
        assert one.smiles == other.smiles and one.x.equal(other.x)
    last = sum(study.molecules.SIZES)
    x = torch.cat([data.x for data in graphs])
    # Every column has rows of its own in the one table of embeddings.
    lower = study.molecules.OFFSETS
    upper = torch.tensor([*lower[1:].tolist(), last])
    assert bool(((x >= lower) & (x < upper)).all())


def test_splits_are_paired_and_whole(study, graphs):
    for kind in ("random", "scaffold"):
        seen = set()
        for seed in range(4):
            parts = study.molecules.split(graphs, kind, seed)
            assert parts == study.molecules.split(graphs, kind, seed)
            assert sorted(sum(parts, [])) == list(range(60))
            assert 1 <= len(parts[2]) <= 6 and 1 <= len(parts[1]) <= 6
            seen.add(tuple(sorted(parts[2])))
        assert len(seen) == 4


def test_scaffold_splits_share_no_scaffold(study, graphs):
    from rdkit.Chem.Scaffolds import MurckoScaffold

    of = [MurckoScaffold.MurckoScaffoldSmiles(data.smiles) for data in graphs]
    for seed in range(4):
        parts = study.molecules.split(graphs, "scaffold", seed)
        train, valid, test = ({of[i] for i in part} for part in parts)
        assert not (train & valid or train & test or valid & test)


def test_too_few_molecules_are_told(study, graphs):
    rings = [data for data in graphs if data.scaffold == "c1ccccc1"]
    with pytest.raises(SystemExit, match="too few for a scaffold split"):
        study.molecules.split(rings, "scaffold", 0)


def test_random_tokens_keep_the_sizes_and_nothing_else(study, graphs):
    drawn = [study.molecules.with_random_tokens(graphs, seed) for seed in (0, 0, 1)]
    for one, again, other in zip(*drawn, strict=True):
        assert one.atom_to_token.equal(again.atom_to_token)
        assert other.num_tokens == one.num_tokens
    moved = 0
    for given, one in zip(graphs, drawn[0], strict=True):
        assert one.x.equal(given.x) and one.edge_index.equal(given.edge_index)
        assert one.atom_to_token.bincount().equal(given.atom_to_token.bincount())
        moved += int((one.atom_to_token != given.atom_to_token).sum())
        edges = {
            (int(one.atom_to_token[a]), int(one.atom_to_token[b]))
            for a, b in given.edge_index.T
        }
        found = set(map(tuple, one.token_edge_index.T.tolist()))
        assert found == {(a, b) for a, b in edges if a != b}
    assert moved > 100


def test_contributions_of_atoms_add_up_to_logp(study, graphs):
    from rdkit import Chem
    from rdkit.Chem.Crippen import MolLogP

    for data in graphs[:20]:
        logp = MolLogP(Chem.MolFromSmiles(data.smiles))
        assert math.isclose(data.contribution.sum(), logp, abs_tol=1e-4)
        pieces = [[] for _ in range(data.num_tokens)]
        pairs = zip(data.contribution.tolist(), data.atom_to_token, strict=True)
        for value, token in pairs:
            pieces[token].append(value)
        for task, reduce in (("fragment-sum", sum), ("fragment-max", max)):
            wanted = torch.tensor([reduce(piece) for piece in pieces])
            found = study.molecules.token_target(data, task)
            assert found.allclose(wanted, atol=1e-6)


def test_parameters_are_matched(study):
    models = study.models
    counts = {}
    for name in models.POOLINGS:
        model = models.Model(name, models.matched_hidden(name))
        counts[name] = sum(p.numel() for p in model.parameters())
        told = models.count_parameters(name, models.matched_hidden(name))
        assert told == counts[name]
    assert max(counts.values()) < 1.05 * min(counts.values())


@pytest.mark.parametrize("per_token", [False, True])
def test_models_see_no_batch(study, graphs, per_token):
    for name in study.models.POOLINGS:
        model = study.models.Model(name, 16, per_token).eval()
        with torch.no_grad():
            one_by_one = [model(Batch.from_data_list([data])) for data in graphs[:8]]
            together = model(Batch.from_data_list(graphs[:8]))
        assert together.allclose(torch.cat(one_by_one), atol=1e-4), name
        count = sum(data.num_tokens for data in graphs[:8])
        assert together.shape == (count if per_token else 8,)


def test_every_arm_gives_an_error(study, cache):
    methods = [*study.models.POOLINGS, "mean of training"]
    for task in ("molecule", "fragment-sum", "fragment-max"):
        for method in methods:
            given = config(task=task, pooling=method, epochs=2)
            found = study.training.run(given, cache)
            assert given.items() <= found.items()
            assert math.isfinite(found["test_error"]) and found["valid_error"] > 0
            assert sum(found["sizes"].values()) == 60
    # Paired, and the same again.
    again = study.training.run(given, cache)
    assert again["test_error"] == found["test_error"]


def test_the_mean_and_the_forest(study, cache, graphs):
    found = study.training.run(config(pooling="mean of training"), cache)
    train, _, test = study.molecules.split(graphs, "random", 0)
    y = [data.y.item() for data in graphs]
    mean = sum(y[i] for i in train) / len(train)
    wanted = math.sqrt(sum((y[i] - mean) ** 2 for i in test) / len(test))
    assert math.isclose(found["test_error"], wanted, rel_tol=1e-4)
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    forest = study.training.run(config(pooling="random forest"), cache)
    assert 0 < forest["test_error"] < 5


def test_the_error_of_two_classes_is_of_their_order(study):
    scores, y = torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([0.0, 1, 0, 1])
    # Of four pairs three are in order, and one is a draw.
    assert math.isclose(study.training.error(scores, y, True), 0.5 / 4)


def row(pooling, seed, valid, test, **changes):
    sizes = {"train": 80, "valid": 10, "test": 10}
    return config(pooling=pooling, seed=seed) | changes | {
        "valid_error": valid, "test_error": test, "sizes": sizes, "parameters": 7,
    }  # fmt: skip


def test_paired_differences_by_hand(study):
    ours = [row("a", seed, 0, error) for seed, error in enumerate((2, 4, 6, 50))]
    others = [row("b", seed, 0, error) for seed, error in ((2, 3), (0, 1), (1, 2))]
    # 1, 2 and 3: mean 2, variance 1; 4.3027 is t(0.975) of two degrees of freedom.
    count, mean, half = study.report.paired(ours, others)
    assert (count, mean) == (3, 2)
    assert math.isclose(half, 4.3027 * math.sqrt(1 / 3 + 10 / 80), rel_tol=1e-4)
    count, mean, half = study.report.paired(ours[:1], others)
    assert (count, mean) == (1, 1) and math.isnan(half)


def test_the_control_is_chosen_by_validation(study):
    rows = [row("mean", s, 1.0, 3.0 + s) for s in (0, 1)]
    rows += [row("sum", s, 2.0, 1.0 + s) for s in (0, 1)]
    rows += [row("ours, mean", s, 0.5, 2.5 + s) for s in (0, 1)]
    # A seed that an arm lacks counts for none.
    rows += [row("sum", 2, 0.0, 9.0), row("mean", 2, 0.0, 9.0)]
    results = study.report.Results(rows)
    (setting,) = results.settings
    assert results.control(setting) == ("brics", "mean")
    table = study.report.poolings_table(results, [setting])
    assert "| mean | 7 | 3.500 (control) |" in table
    assert "| ours, mean | 7 | 3.000 (**-0.500 ± 0.000**) |" in table
    table = study.report.attention_table(results, [setting]).splitlines()[2:]
    assert table == ["| ours, mean − mean | BRICS | 3.000 (**-0.500 ± 0.000**) |"]
    rows.append(row("none", 0, 1.0, 1.0, epochs=2))
    with pytest.raises(SystemExit, match="several budgets"):
        study.report.Results(rows)


def test_half_a_result_is_run_again(study, tmp_path):
    path = tmp_path / "results.jsonl"
    assert study.run.read_results(path) == []
    path.write_text('{"seed": 0}\n{"seed": 1}\n{"se')
    assert study.run.read_results(path) == [{"seed": 0}, {"seed": 1}]
    assert path.read_text() == '{"seed": 0}\n{"seed": 1}\n'


def test_grids_go_seed_by_seed(study):
    args = SimpleNamespace(
        grid="small", data=["freesolv", "esol"], seeds=3, fragments=["sum"],
        epochs=None, limit=None,
    )  # fmt: skip
    small = study.run.grid(args)
    seeds = [given["seed"] for given in small]
    assert seeds == sorted(seeds)
    keys = {study.run.key(given, small[0]) for given in small}
    assert len(keys) == len(small)
    arms = {(g["tokens"], g["pooling"]) for g in small if g["task"] == "molecule"}
    assert len({a for a in arms if a[1] in study.models.POOLINGS}) == 8 + 3 * 3
    args.grid = "full"
    assert len(study.run.grid(args)) > len(small)


def test_a_set_that_cannot_be_had_is_told(study, tmp_path, monkeypatch):
    import torch_geometric.datasets

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch_geometric.datasets, "MoleculeNet", offline)
    with pytest.raises(SystemExit, match="HIV cannot be downloaded.*no network"):
        study.molecules.read_table("moleculenet:HIV", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_study_goes_on(study, tmp_path):
    command = [sys.executable, STUDY / "run.py", "--out", tmp_path, "--workers", 2,
               "--seeds", 2, "--epochs", 3, "--limit", 40, "--data", "esol",
               "--fragments", "sum"]  # fmt: skip
    command = list(map(str, command))
    path = tmp_path / "results.jsonl"
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not path.exists() or path.read_text().count("\n") < 5:
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGKILL)
    # Its standard error ends when the workers that share it are gone, too.
    started.communicate(timeout=60)
    before = path.read_text()
    before = before[: before.rfind("\n") + 1]
    path.write_text(before + '{"task": "mol')
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = path.read_text()
    count = before.count("\n")
    assert (
        after.startswith(before) and f"{count} of them finished before" in done.stdout
    )
    rows = [json.loads(line) for line in after.splitlines()]
    names = list(config())
    assert len({study.run.key(r, names) for r in rows}) == len(rows)
    assert f"{len(rows)} runs" in done.stdout
    table = [
        line for line in done.stdout.splitlines() if line.startswith("| ours, sum |")
    ]
    assert len(table) == 1 + 4 + 1 and all("±" in line for line in table[:1])
    assert "<svg" in (tmp_path / "evidence.svg").read_text()
    # By the report alone the same tables.
    command = [sys.executable, STUDY / "report.py", "--out", tmp_path]
    alone = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert alone.returncode == 0 and alone.stdout in done.stdout
