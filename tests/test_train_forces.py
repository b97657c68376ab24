"""`train_forces.py`, its `potential.py`, and `run_dynamics.py`."""

import importlib
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
def script(monkeypatch):
    """Gives a script as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.fixture
def run(script, monkeypatch, capsys):
    """Runs a script in this process; gives what it prints."""

    def main(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        script(name).main()
        return capsys.readouterr().out

    return main


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
