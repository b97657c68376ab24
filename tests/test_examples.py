"""The example scripts, on little work."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


SCRIPTS = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py"))


@pytest.fixture
def load(monkeypatch):
    """Gives a script as a module that finds what lies beside it."""

    def module(script):
        path = EXAMPLES / script
        monkeypatch.syspath_prepend(path.parent)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        loaded = importlib.util.module_from_spec(spec)
        # What another one imported from beside it may have a name that this one uses.
        for other in SCRIPTS:
            sys.modules.pop(Path(other).stem, None)
        spec.loader.exec_module(loaded)
        return loaded

    return module


@pytest.fixture
def run(load, monkeypatch, capsys):
    """Runs a script with arguments, in this process; gives what it prints."""

    def main(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        load(script).main()
        return capsys.readouterr().out

    return main


def run_apart(script, *arguments):
    """As a user runs it."""
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_starts_as_a_user_starts_it(script):
    done = run_apart(script, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script, package, extra",
    [
        ("encode_structure.py", "safetensors", "save"),
        ("boltz_encoder.py", "safetensors", "save"),
        ("train_molecules.py", "rdkit", "chem"),
        ("predict_molecules.py", "safetensors", "save"),
        ("benchmarks/attention.py", "matplotlib", "plot"),
        ("benchmarks/batch_sizes.py", "matplotlib", "plot"),
        ("benchmarks/boltz_encoder.py", "matplotlib", "plot"),
    ],
)
def test_says_which_extra_brings_what_it_lacks(
    script, package, extra, run, monkeypatch
):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install -e '\.\[{extra}\]'"):
        run(script)


def test_quickstart_says_so_in_one_line(run, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(SystemExit, match="1"):
        run("quickstart.py")
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: from_smiles needs the package 'rdkit'")
    assert "pip install -e '.[chem]'" in said


def errors_of(text):
    """The errors and sizes that quickstart.py prints, by the way to tokens."""
    lines = [line.split() for line in text.splitlines() if line.endswith("parameters")]
    numbers = [(float(line[-5]), int(line[-2].replace(",", ""))) for line in lines]
    return dict(zip((" ".join(line[:-5]) for line in lines), numbers, strict=True))


WAYS = [
    "the mean of the training set",
    "no tokens",
    "tokens by mean pooling",
    "tokens by sum pooling",
    "encoder, reduce='mean'",
    "encoder, reduce='sum'",
]


def test_quickstart(tmp_path, load, monkeypatch, capsys):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    quickstart = load("quickstart.py")
    lines = quickstart.TABLE.read_text().splitlines()
    monkeypatch.setattr(quickstart, "TABLE", tmp_path / "some.csv")
    quickstart.TABLE.write_text("\n".join(lines[:121]))
    monkeypatch.setattr(quickstart, "SPLITS", 2)
    out = tmp_path / "new"
    monkeypatch.setattr(sys, "argv", ["", "--epochs", "6", "--out", str(out)])
    quickstart.main()
    printed = capsys.readouterr().out
    found = errors_of(printed)
    assert list(found) == WAYS
    # A few epochs on some molecules learn something already.
    least = found["the mean of the training set"][0]
    assert all(error < least for error, _ in list(found.values())[1:])
    sizes = [size for _, size in list(found.values())[1:]]
    assert max(sizes) < 1.05 * min(sizes)
    assert "± is the standard deviation over splits" in printed
    assert "± is a 95 % interval of the mean" in printed
    assert "120 molecules of" in printed and "The error of encoder, re" in printed
    assert (out / "quickstart.svg").read_text().count("<ellipse") > 10


def test_quickstart_says_what_its_numbers_show(load):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    quickstart = load("quickstart.py")
    hard = torch.tensor([0.0, 0.3, 0.1, 0.2, 0.5])
    noise = torch.tensor([0.02, -0.01, 0.0, 0.01, -0.02])
    errors = {
        WAYS[0]: 2 + hard,
        WAYS[1]: 1 + hard + noise,
        WAYS[2]: 1.01 + hard,
        WAYS[3]: 0.8 + hard + noise,
        WAYS[4]: 1 + hard - noise,
        WAYS[5]: 0.9 + hard - noise,
    }
    values = {way: values.tolist() for way, values in errors.items()}
    said = quickstart.say(values, 0.25)
    assert [re.sub(r" \(.*?\)", "", line) for line in said] == [
        "The error of encoder, reduce='mean' is",
        "  less than the mean of the training set",
        "  more than tokens by sum pooling",
        "  not told from no tokens, tokens by mean pooling",
        "The error of encoder, reduce='sum' is",
        "  less than the mean of the training set, no tokens, tokens by mean pooling",
        "  more than tokens by sum pooling",
        "So here the encoder does not help: tokens by sum pooling does better.",
    ]
    # By hand, of a fifth held out: the variance times 1/5 + (1/5) / (4/5).
    spread = 2.776 * (2 * noise).std().item() * 0.45**0.5
    assert f"no tokens (+0.00 ± {spread:.2f})" in said[3]
    for gain, end in [(0.1, "shows no gain"), (0.2, "helps: encoder, reduce='sum'")]:
        changed = errors | {WAYS[5]: errors[WAYS[5]] - gain}
        said = quickstart.say({way: e.tolist() for way, e in changed.items()}, 0.25)
        assert said[-1] == f"So here the encoder {end}."


def test_quickstart_doubts_differences_of_splits_that_overlap(load):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    quickstart = load("quickstart.py")
    # 1.2 times as far from 0 as the naive interval reaches, 0.8 times the corrected.
    gap = torch.tensor([0.1, 0.2, 0.15, 0.25, 0.05])
    gap = gap - gap.mean() + 1.2 * 2.78 * gap.std() / 5**0.5
    errors = {WAYS[0]: [1.0] * 5, WAYS[5]: (1 - gap).tolist()}
    assert quickstart.say(errors, 0.0)[1].startswith("  less than")
    assert quickstart.say(errors, 0.25)[1].startswith("  not told from")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "0"], "--epochs: '0' is no positive integer"),
        (["--epochs", "-3"], "--epochs: '-3' is no positive integer"),
        (["--epochs", "many"], "--epochs: 'many' is no positive integer"),
        (["--device", "abacus"], "--device: 'abacus' is no device here"),
        (["--depth", "3"], "unrecognized arguments: --depth 3"),
    ],
)
def test_quickstart_refuses_wrong_arguments(arguments, message, run, capsys):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    with pytest.raises(SystemExit) as stopped:
        run("quickstart.py", *arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.startswith("error: ") and message in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_quickstart_as_a_user_runs_it(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    done = run_apart("quickstart.py", "--epochs", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(errors_of(done.stdout)) == WAYS
    assert "training" in done.stderr and "100%" in done.stderr


def test_quickstart_draws_weights_on_the_atoms_that_they_are_of(tmp_path, load):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    quickstart = load("quickstart.py")

    def weights_of_nitrogen(x, layout, return_attention_weights):
        return None, x.unsqueeze(1)

    class Model(torch.nn.Module):
        to_tokens = staticmethod(weights_of_nitrogen)
        atoms = staticmethod(lambda batch: (batch.z == 7).float())

    # The canonical SMILES starts with a carbon, and ends with the nitrogen.
    data = quickstart.from_smiles("N1(C)CCC1")
    data.name = "a molecule"
    assert data.smiles != data.given_smiles
    quickstart.draw(Model(), data, tmp_path / "picture.svg", "cpu")
    picture = (tmp_path / "picture.svg").read_text()
    atoms = re.findall(r"<ellipse .*class='(atom-\d+)'.*fill:(#\w+);", picture)
    # Nitrogen is more orange than white, the others are less.
    coloured = [atom for atom, colour in atoms if colour[1:3] > colour[5:]]
    # Letters are drawn for what is no carbon.
    letters = set(re.findall(r"<path class='(atom-\d+)'", picture))
    assert len(atoms) == 5 and coloured == ["atom-0"] and letters == {"atom-0"}


def read(path):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is missing")
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, {k: json.loads(v) for k, v in file.metadata().items()}


def test_encode_structure_without_a_file(tmp_path, run):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    out = tmp_path / "new" / "tokens.safetensors"
    printed = run("encode_structure.py", "--out", out, "--device", "cpu")
    tensors, names = read(out)
    peptide = [name.split(":")[-1] for name in names["token_names"][:6]]
    assert peptide == ["GLY1", "ALA2", "VAL3", "LEU4", "LYS5", "PHE6"]
    assert tensors["tokens"].shape == (len(names["token_names"]), 128)
    assert tensors["token_batch"].unique().tolist() == [0, 1]
    assert "| paracetamol" in printed


def test_encode_structure_files(tmp_path, structures, run):
    files = [structures / name for name in ("1l2y.bcif", "3o5r.pdb", "1aki.cif")]
    outs = [tmp_path / "one.safetensors", tmp_path / "all.safetensors"]
    for out, size in zip(outs, (1, 3), strict=True):
        run("encode_structure.py", *files, "--out", out, "--batch-size", size,
            "--device", "cpu")  # fmt: skip
    (one, names), (all_, _) = map(read, outs)
    assert names["structures"] == ["1l2y.bcif", "3o5r.pdb", "1aki.cif"]
    assert names["token_names"][0] == "A:ASN1"
    assert len(one["tokens"]) == 20 + 416 + 207
    assert one["token_batch"].equal(all_["token_batch"])
    assert one["tokens"].allclose(all_["tokens"], atol=1e-5)


def test_encode_structure_with_other_tokens(tmp_path, structures, run):
    out = tmp_path / "tokens.safetensors"
    for tokenizer, count in [("atom", 304), ("af3", 20)]:
        run("encode_structure.py", structures / "1l2y.bcif", "--out", out,
            "--tokenizer", tokenizer, "--device", "cpu")  # fmt: skip
        assert len(read(out)[0]["tokens"]) == count


def test_encode_structure_says_what_is_wrong(tmp_path, run, capsys):
    pytest.importorskip("biotite", reason="biotite is not installed")
    with pytest.raises(SystemExit) as stopped:
        run("encode_structure.py", tmp_path / "nothing.cif")
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "nothing.cif: does not exist or cannot be read" in message


def test_boltz_encoder(tmp_path, run):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from pyg_atomenc.checkpoints import to_boltz_state_dict
    from pyg_atomenc.nn import BoltzAtomEncoder, BoltzConfig

    out, path = tmp_path / "tokens.safetensors", tmp_path / "boltz.ckpt"
    arguments = ("boltz_encoder.py", "--out", out, "--device", "cpu")
    assert "RANDOM weights" in run(*arguments)
    random = read_tensors(out)
    config = BoltzConfig.boltz1("trunk", token_channels=24)
    torch.save({"state_dict": to_boltz_state_dict(BoltzAtomEncoder(config))}, path)
    printed = run(*arguments, "--checkpoint", path)
    assert "weights of Boltz-1" in printed and "RANDOM" not in printed
    tokens = read_tensors(out)
    assert {name: len(t) for name, t in tokens.items()} == {
        name: len(t) for name, t in random.items()
    }
    assert tokens["aspirin"].shape[1] == 24
    with pytest.raises(SystemExit, match="there is no such file"):
        run("boltz_encoder.py", "--checkpoint", tmp_path / "none.ckpt")


def read_tensors(path):
    return pytest.importorskip("safetensors.torch").load_file(path)


def test_benchmark_reading(run):
    pytest.importorskip("biotite", reason="biotite is not installed")
    printed = run("benchmarks/reading.py", "--atoms", 200, "--rounds", 1)
    rows = [line for line in printed.splitlines() if "| protein." in line]
    head = printed.splitlines()[0]
    assert len(rows) == 3 and all(row.count("|") == head.count("|") for row in rows)
    assert all(" ms |" in row and " × |" in row for row in rows)


@pytest.mark.slow
def test_benchmark_dataset():
    pytest.importorskip("biotite", reason="biotite is not installed")
    done = run_apart("benchmarks/dataset.py", "--count", 12, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "12 files" in done.stdout and "1 process: " in done.stdout
    assert "filled to" in done.stdout and done.stdout.rstrip().endswith("has 12")


@pytest.mark.parametrize("mode", ["infer", "train", "attend infer", "attend train"])
def test_a_measurement_of_the_benchmark(mode, load):
    measure = load("benchmarks/attention.py").measure
    threads = torch.get_num_threads()
    found = measure(
        "residues-300", "pyg_atomenc dense", mode, "cpu", threads, "float32"
    )
    assert found["seconds"] > 0 and found["difference"] < 1e-5
    assert ("share" if "attend" in mode else "floor") in found


@pytest.mark.slow
def test_a_process_of_the_benchmark():
    arguments = ("--one", "residues-300", "pyg_atomenc dense", "train")
    done = run_apart("benchmarks/attention.py", *arguments)
    assert json.loads(done.stdout.splitlines()[-1])["seconds"] > 0, done.stderr


def test_the_benchmark_of_batch_sizes(load, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    benchmark = load("benchmarks/batch_sizes.py")
    monkeypatch.setattr(benchmark, "COUNTS", (1, 3))
    monkeypatch.setattr(
        benchmark, "timed", lambda steps, _: [s() is None or 1 for s in steps]
    )
    threads = ("--threads", str(torch.get_num_threads()))
    monkeypatch.setattr(sys, "argv", ["", "--quick", *threads, "--out", str(tmp_path)])
    benchmark.main()
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert len(table) == 2 + 2 * 2 * 2
    assert len({line.count("|") for line in table}) == 1
    assert "| 1 molecule |" in table[2] and "| 3 fragments |" in table[-1]
    assert "<svg" in (tmp_path / "batch_sizes.svg").read_text()
    options = ("--only", "TransformerConv", "--out", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", ["", *threads, *options])
    benchmark.main()
    found = capsys.readouterr().out
    assert "| pyg_atomenc | TransformerConv | best" in found
    assert not (tmp_path / "none").exists()


def test_the_benchmark_of_edges(load):
    benchmark = load("benchmarks/edges.py")
    for contender in ("TransformerConv", "TokenAttentionConv"):
        for kind in benchmark.KINDS:
            run, leaves = benchmark.make(contender, kind, 2.2, True, nodes=50)
            run().sum().backward()
            assert leaves[0].grad is not None
            assert run().shape == (50, 128)


def test_the_benchmark_counts_the_bytes_of_attention_alone(load):
    problems = load("benchmarks/problems.py")
    problem = problems.Projected("size-10-1000", "cpu", torch.bfloat16)
    # q, k, v of 1,000 atoms, 128 channels of two bytes; a hundred tokens.
    rows, tokens = 1000 * 128 * 2, 100 * 128 * 2
    assert problem.bytes(False) == (3 * rows + tokens,) * 2
    read = (3 * rows + tokens) + (3 * rows + tokens) + 3 * rows
    assert problem.bytes(True) == (read, 6 * rows + 2 * tokens)
