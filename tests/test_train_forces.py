"""`train_forces.py`, its `potential.py`, and `run_dynamics.py`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

EXAMPLES = Path(__file__).parents[1] / "examples"
for _package in ("rdkit", "safetensors"):
    pytest.importorskip(_package, reason=f"{_package} is not installed")


@pytest.fixture
def model(script):
    """In double precision, with nothing at a special value."""
    model = script("potential").Potential(channels=16, heads=2, num_rbf=16).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    model.scale.fill_(2.5)
    model.shift.fill_(-0.75)
    return model


@pytest.fixture
def make(script):
    """Gives a frame of a molecule with made-up positions, in double precision."""
    potential = script("potential")

    def frame(smiles):
        molecule = potential.read_molecule(smiles)
        molecule.edge_attr = molecule.edge_attr.double()
        return potential.frame(molecule, 1.3 * torch.randn(len(molecule.z), 3))

    return frame


def test_turning_shifting_and_mirroring_change_no_energy(script, model, make):
    data = make("CC(=O)NC")
    turn, _ = torch.linalg.qr(torch.randn(3, 3).double())
    moved = data.clone()
    moved.pos = data.pos @ turn.T + 10 * torch.randn(3)
    found = [
        script("potential").energy_and_forces(model, Batch.from_data_list([d]))
        for d in (data, moved)
    ]
    (energy, forces), (energy_moved, forces_moved) = found
    torch.testing.assert_close(energy_moved, energy)
    torch.testing.assert_close(forces_moved, forces @ turn.T)
    assert forces.abs().max() > 1e-3
    # Neither net force nor torque.
    torch.testing.assert_close(forces.sum(0), torch.zeros(3).double())
    torque = torch.linalg.cross(data.pos, forces).sum(0)
    torch.testing.assert_close(torque, torch.zeros(3).double())


def test_forces_are_minus_the_gradient_of_each_molecule(script, model, make):
    batch = Batch.from_data_list([make("CCO"), make("CC(=O)NC"), make("[He]")])
    _, forces = script("potential").energy_and_forces(model, batch)
    pos, step = batch.pos.detach().clone(), 1e-4

    def energies(atom, axis, shift):
        batch.pos = pos.clone()
        batch.pos[atom, axis] += shift
        with torch.no_grad():
            return model(batch)

    for atom in range(len(pos)):
        axis = atom % 3
        change = energies(atom, axis, step) - energies(atom, axis, -step)
        slope = torch.zeros(3).double()
        slope[batch.batch[atom]] = -forces[atom, axis]
        torch.testing.assert_close(change / (2 * step), slope, rtol=1e-5, atol=1e-6)


def test_forces_go_on_where_distances_end(script, model, make):
    potential, data = script("potential"), make("CCO")
    distance = (data.pos[0] - data.pos[1]).norm()
    found = []
    for far in (model.cutoff - 1e-5, model.cutoff + 1e-5):
        moved = data.clone()
        moved.pos[0] = moved.pos[1] + (data.pos[0] - data.pos[1]) * far / distance
        batch = Batch.from_data_list([moved])
        found.append(potential.energy_and_forces(model, batch))
    (energy, forces), (energy_far, forces_far) = found
    torch.testing.assert_close(energy_far, energy, rtol=0, atol=1e-3)
    torch.testing.assert_close(forces_far, forces, rtol=0, atol=1e-3)


def test_training_follows_the_gradient_of_the_error_of_forces(script, model, make):
    potential = script("potential")
    batch = Batch.from_data_list([make("CCO"), make("CN")])
    wanted = torch.randn_like(batch.pos)

    def loss():
        _, forces = potential.energy_and_forces(model, batch, create_graph=True)
        return (forces - wanted).square().mean()

    loss().backward()
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    # The last bias adds to every energy, and to no force.
    assert len(weights) == len(list(model.parameters())) - 1
    ways = [torch.randn_like(weight) for weight in weights]
    slope = sum(
        (way * weight.grad).sum() for way, weight in zip(ways, weights, strict=True)
    )
    values, step = [], 1e-5
    for sign in (1, -2):
        for weight, way in zip(weights, ways, strict=True):
            weight.data += sign * step * way
        values.append(loss().item())
    found = (values[0] - values[1]) / (2 * step)
    assert found == pytest.approx(slope.item(), rel=1e-5)


def test_frames_have_the_energies_and_forces_of_mmff(script):
    from rdkit.Chem import AllChem
    from rdkit.Geometry import Point3D

    train = script("train_forces")
    frames = train.draw("CO", 40, 400.0, seed=3)
    mol = train.conformers("CO", seed=3)
    conformer, step = mol.GetConformer(0), 1e-4

    def energy(pos):
        # A field made anew has left nothing behind.
        for i, place in enumerate(pos):
            conformer.SetAtomPosition(i, Point3D(*map(float, place)))
        properties = AllChem.MMFFGetMoleculeProperties(mol)
        field = AllChem.MMFFGetMoleculeForceField(mol, properties, confId=0)
        return field.CalcEnergy() * train.EV

    lowest = energy(conformer.GetPositions())
    for pos, found, forces in frames[::13]:
        assert found == pytest.approx(energy(pos))
        for atom in range(len(pos)):
            shift = np.zeros_like(pos)
            shift[atom, atom % 3] = step
            slope = (energy(pos + shift) - energy(pos - shift)) / (2 * step)
            assert forces[atom, atom % 3] == pytest.approx(-slope, abs=1e-4)
    # Half kT for each of 3 N - 6 springs, and the rotation about one bond.
    expected = 0.5 * (3 * 6 - 6) * train.KELVIN * 400
    above = np.mean([energy for _, energy, _ in frames]) - lowest
    assert 0.7 * expected < above < 1.4 * expected


def errors_of(text):
    """Errors of energies and forces, by what made them."""
    rows = re.findall(r"\| (the \w+) \| ([\d.]+) \| ([\d.]+) \|", text)
    return {name: (float(energy), float(forces)) for name, energy, forces in rows}


def test_learns_forces_and_is_kept(script, run, tmp_path):
    potential, out = script("potential"), tmp_path / "new" / "potential"
    options = ("--count", 100, "--epochs", 20, "--device", "cpu", "--out", out)
    found = errors_of(run("train_forces", "O", *options))
    assert found["the model"][1] < 0.5 * found["the mean"][1]
    model, smiles = potential.load(out)
    again = potential.load(out)[0].double()
    assert smiles == "O"
    frames = script("train_forces").draw("O", 100, 500.0, seed=0)[80:]
    molecule, wrong = potential.read_molecule("O"), []
    for pos, _, forces in frames:
        batch = Batch.from_data_list([potential.frame(molecule, pos)])
        _, forces_of_model = potential.energy_and_forces(model, batch)
        wrong.append(np.abs(forces_of_model.numpy() - forces).mean())
        batch.edge_attr, batch.pos = batch.edge_attr.double(), batch.pos.double()
        _, forces_in_double = potential.energy_and_forces(again, batch)
        assert forces_in_double.float().allclose(forces_of_model, atol=1e-3)
    # What was printed, in meV, to the digits that are printed.
    assert 1000 * np.mean(wrong) == pytest.approx(found["the model"][1], abs=0.1)


def test_says_what_is_wrong(script, run, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"^{tmp_path}: holds no model of"):
        script("potential").load(tmp_path)
    for smiles, message in {"C(": "RDKit refuses", "[Xe]": "MMFF94 lacks"}.items():
        with pytest.raises(SystemExit):
            run("train_forces", smiles, "--out", tmp_path / "none")
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "name, option, message",
    [
        ("train_forces", ("--epochs", 0), "--epochs: '0' is no positive integer"),
        ("train_forces", ("--count", 0), "--count: '0' is no positive integer"),
        ("train_forces", ("--count", 4), "4 frames are too few"),
        ("train_forces", ("--temperature", -5), "'-5' is no positive number"),
        ("train_forces", ("--device", "abacus"), "'abacus' is no device here"),
        ("train_forces", ("--frames", "no.xyz"), "no.xyz"),
        ("train_forces", ("--frames", "a", "--count", 9), "are not for --frames"),
        ("train_forces", ("--frames", "a", "--temperature", 9), "not for --frames"),
        ("run_dynamics", ("--picoseconds", 0), "'0' is no positive number"),
        ("run_dynamics", ("--step", "nan"), "'nan' is no positive number"),
        ("run_dynamics", ("--step", 1e6), "--picoseconds: is shorter than a --step"),
        ("run_dynamics", ("--out", "new/md.foo"), "ASE writes no trajectory to"),
        ("run_dynamics", ("--out", "new/md"), "ASE writes no trajectory to"),
        ("run_dynamics", (), "O: holds no model of train_forces.py"),
    ],
)
def test_says_what_is_wrong_in_one_line(name, option, message, run, tmp_path, capsys):
    if name == "run_dynamics" or "--frames" in option:
        pytest.importorskip("ase", reason="ASE is not installed")
    out = () if "--out" in option else ("--out", tmp_path / "new" / "md.xyz")
    with pytest.raises(SystemExit) as stopped:
        run(name, "O", *out, *option)
    said = capsys.readouterr().err.splitlines()
    # Below a progress bar, where one was shown.
    assert stopped.value.code == 1 and said[-1].startswith("error: ")
    assert message in said[-1] and not any("Traceback" in line for line in said)
    assert not (tmp_path / "new" / "md.xyz").exists() and not Path("new").exists()


def test_learns_where_nothing_pulls(script, run, tmp_path):
    found = errors_of(
        run("train_forces", "[Na+].[Cl-]", "--count", 40, "--epochs", 1,
            "--device", "cpu", "--out", tmp_path)
    )  # fmt: skip
    assert np.isfinite([*found.values()]).all() and found["the mean"] == (0, 0)
    model, _ = script("potential").load(tmp_path)
    assert model.scale == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_saves_no_model_that_is_not_finite(script, run, tmp_path, capsys, monkeypatch):
    potential, train = script("potential"), script("train_forces")
    model = potential.Potential()
    model.head[2].bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the model is not finite"):
        potential.save(model, "O", tmp_path / "a")
    wrong = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(
        train, "energy_and_forces", lambda *_, **__: (wrong, torch.zeros(()))
    )
    with pytest.raises(SystemExit, match="1"):
        run("train_forces", "O", "--count", 10, "--out", tmp_path / "a")
    assert "error: the loss is not finite: nothing is" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.fixture
def ase():
    return pytest.importorskip("ase", reason="ASE is not installed")


def test_learns_from_frames_of_ones_own(ase, script, run, tmp_path, capsys):
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    drawn = script("train_forces").draw("O", 50, 500.0, seed=1)
    frames = []
    for pos, energy, forces in drawn:
        frames.append(ase.Atoms("OHH", pos))
        known = SinglePointCalculator(frames[-1], energy=energy, forces=forces)
        frames[-1].calc = known
    write(tmp_path / "frames.xyz", frames)
    options = ("--epochs", 1, "--device", "cpu", "--seed", 1)
    arguments = (*options, "--frames", tmp_path / "frames.xyz", "--out", tmp_path / "a")
    given = errors_of(run("train_forces", "O", *arguments))
    arguments = (*options, "--count", 50, "--out", tmp_path / "b")
    found = errors_of(run("train_forces", "O", *arguments))
    # The file holds eight digits.
    assert np.allclose([*given.values()], [*found.values()], atol=0.3)
    with pytest.raises(SystemExit):
        run("train_forces", "N", "--frames", tmp_path / "frames.xyz")
    assert "frame 0 has OH2 in place of the atoms of N" in capsys.readouterr().err


@pytest.fixture
def write_frames(ase, script, tmp_path):
    """Writes frames of ethanol, with changes, to a file."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    mol = script("train_forces").conformers("CCO")
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]

    def make(order=slice(None), labels=("energy", "forces"), energy=-1.0):
        frames, known = [], {"energy": energy, "forces": np.ones((9, 3))}
        for i in range(6):
            pos = mol.GetConformer(i).GetPositions()[order]
            atoms = ase.Atoms(np.array(numbers)[order], pos)
            each = {label: known[label] for label in labels}
            # That of the fourth alone.
            each |= {"energy": -1.0} if "energy" in each and i != 3 else {}
            atoms.calc = SinglePointCalculator(atoms, **each)
            frames.append(atoms)
        write(tmp_path / "frames.xyz", frames)
        return tmp_path / "frames.xyz"

    return make


@pytest.mark.parametrize(
    "change, message",
    [
        # Of the methyl group and the hydroxyl group; all elements stay in place.
        ({"order": [0, 1, 2, 8, 4, 5, 6, 7, 3]}, "atoms 0 (C) and 3 (H), from 0, "),
        ({"order": [1, 0, 2, 3, 4, 5, 6, 7, 8]}, "atoms 0 (C) and 3 (H), from 0, "),
        ({"labels": ["energy"]}, "frame 0 has no energy, or no forces"),
        ({"labels": ["forces"]}, "frame 0 has no energy, or no forces"),
        ({"energy": float("nan")}, "a number of frame 3 is not finite"),
    ],
)
def test_refuses_frames(change, message, write_frames, run, tmp_path, capsys):
    file, out = write_frames(**change), tmp_path / "model"
    with pytest.raises(SystemExit, match="1"):
        run("train_forces", "CCO", "--frames", file, "--epochs", 1, "--out", out)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and not out.exists()


def test_takes_frames_in_the_order_of_the_smiles(write_frames, run, tmp_path, capsys):
    out = tmp_path / "model"
    run("train_forces", "CCO", "--frames", write_frames(), "--epochs", 1, "--out", out)
    assert (out / "model.safetensors").exists()
    # ASE's own ethanol has these elements in this order, and other hydrogens.
    from ase.build import molecule
    from ase.io import write

    write(tmp_path / "other.xyz", molecule("CH3CH2OH"))
    with pytest.raises(SystemExit):
        run("train_forces", "CCO", "--frames", tmp_path / "other.xyz")
    said = capsys.readouterr().err
    assert re.search(r"has the atoms \d \(\w\) and \d \(\w\), from", said)
    (tmp_path / "bad.xyz").write_text("no frame")
    with pytest.raises(SystemExit, match="1"):
        run("train_forces", "CCO", "--frames", tmp_path / "bad.xyz")
    assert "bad.xyz: ASE cannot read it" in capsys.readouterr().err


def test_makes_the_folder_of_a_trajectory(ase, script, run, tmp_path):
    script("potential").save(script("potential").Potential(16, 2), "O", tmp_path)
    path = tmp_path / "new" / "md.xyz"
    printed = run("run_dynamics", tmp_path, "--picoseconds", 0.01, "--out", path)
    assert "20 steps of 0.5 fs" in printed
    from ase.io import read

    assert len(read(path, ":")) == 2


def apart(name, *arguments):
    """As a user runs it."""
    words = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.mark.slow
def test_dynamics_conserve_energy(ase, script, tmp_path):
    out = tmp_path / "potential"
    done = apart("train_forces", "CO", "--count", 200, "--epochs", 30, "--out", out)
    assert done.returncode == 0, done.stderr
    found = errors_of(done.stdout)
    assert found["the model"][1] < 0.3 * found["the mean"][1]
    trajectory = tmp_path / "md.xyz"
    done = apart("run_dynamics", out, "--picoseconds", 0.2, "--out", trajectory)
    assert done.returncode == 0, done.stderr
    kinetic, slope, swing = (
        float(re.search(rf"{name}.* ([-+\d.]+) meV", done.stdout)[1])
        for name in ("kinetic", "drift", "swing")
    )
    assert 25 < kinetic < 60 and abs(slope) < 0.5 and 0 < swing < 0.3
    # The molecule is whole, and moves.
    from ase.io import read

    frames = read(trajectory, ":")
    assert len(frames) == 21
    bonds = [atoms.get_distance(0, 1) for atoms in frames]
    assert 1.2 < min(bonds) < max(bonds) - 0.02 < 1.6
    assert is_worse_where_forces_are_no_gradient(script, out, swing)


def is_worse_where_forces_are_no_gradient(script, folder, swing):
    """Whether a fifth too much force is seen in the energy."""
    dynamics = script("run_dynamics")

    class Wrong(dynamics.TokenCalculator):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = 1.2 * self.results["forces"]

    atoms = dynamics.start(Wrong(folder), 300.0, 0)
    energies = dynamics.run(atoms, 100, 0.5)
    return 1000 / len(atoms) * dynamics.drift(energies, 0.05)[1] > 3 * swing
