"""Molecular dynamics at constant energy with a model of `train_forces.py`, by ASE.

    pip install ase
    python examples/run_dynamics.py my_potential --picoseconds 1

Starts from RDKit's conformer of the molecule, relaxed with the model, at --temperature.
Forces that are minus the gradient of one energy conserve kinetic and potential energy
together: how far their sum drifts, and swings with the time step, is printed beside the
kinetic energy. `--out` keeps the trajectory, for any viewer of molecules.
"""

from pathlib import Path

import command_line
import numpy as np
from potential import energy_and_forces, frame, load, read_molecule
from torch_geometric.data import Batch
from tqdm import tqdm

from pyg_atomenc.errors import require_package
from pyg_atomenc.io import from_smiles, with_conformer

calculator = require_package("ase.calculators.calculator", "run_dynamics.py")


class TokenCalculator(calculator.Calculator):
    """Energy in eV and forces in eV/Å of a model, for whatever ASE does with them."""

    implemented_properties = ("energy", "forces")

    def __init__(self, folder):
        super().__init__()
        model, self.smiles = load(folder)
        # Rounding in single precision would push atoms, too.
        self.model, self.molecule = model.double(), read_molecule(self.smiles)
        self.molecule.edge_attr = self.molecule.edge_attr.double()

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        """Both, of the molecule at the positions of the atoms."""
        super().calculate(atoms, properties, system_changes)
        batch = Batch.from_data_list([frame(self.molecule, self.atoms.positions)])
        energy, forces = energy_and_forces(self.model, batch)
        self.results = {"energy": energy.item(), "forces": forces.numpy()}


def start(calculator, temperature, seed):
    """The molecule at a minimum of the model, with velocities that do not turn it."""
    from ase import Atoms
    from ase.md import velocitydistribution as velocities
    from ase.optimize import BFGS

    data = with_conformer(from_smiles(calculator.smiles, hydrogens=True), seed)
    atoms = Atoms(data.z.tolist(), data.pos.double().numpy(), calculator=calculator)
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    random = np.random.default_rng(seed)
    velocities.MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=random)
    velocities.Stationary(atoms)
    velocities.ZeroRotation(atoms)
    # Half of what atoms get at a minimum goes into its springs.
    velocities.force_temperature(atoms, 2 * temperature)
    return atoms


def run(atoms, steps, femtoseconds, out=None):
    """Potential and kinetic energies [steps + 1, 2] in eV, one for every step."""
    from ase.io import write
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs

    found, dynamics = [], VelocityVerlet(atoms, femtoseconds * fs)
    for step in tqdm(range(steps + 1), desc="dynamics", unit="step"):
        dynamics.run(int(step > 0))
        found.append([atoms.get_potential_energy(), atoms.get_kinetic_energy()])
        if out and step % 20 == 0:
            write(out, atoms, append=step > 0)
    return np.array(found)


def drift(energies, picoseconds):
    """The slope of the total energy per picosecond, and its swing about that line."""
    time, total = np.linspace(0, picoseconds, len(energies)), energies.sum(axis=1)
    line = np.polyfit(time, total, 1)
    return line[0], (total - np.polyval(line, time)).std()


def check_format(path):
    """Raise a ValueError unless ASE writes trajectories to a file of this name."""
    formats = require_package("ase.io.formats", "run_dynamics.py")
    try:
        form = formats.ioformats[formats.filetype(path, read=False)]
    except (KeyError, formats.UnknownFileTypeError):
        form = None
    if form is None or form.single or not form.can_write:
        text = "ASE writes no trajectory to a file of this name, try md.xyz"
        raise ValueError(f"{path}: {text}")


def simulate(args):
    steps = round(args.picoseconds * 1000 / args.step)
    if steps < 1:
        raise ValueError("--picoseconds: is shorter than a --step")
    if args.out:
        check_format(args.out)
    model = TokenCalculator(args.model)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    atoms = start(model, args.temperature, args.seed)
    energies = run(atoms, steps, args.step, args.out)
    slope, swing = drift(energies, steps * args.step / 1000)
    unit = 1000 / len(atoms)
    kelvin = atoms.get_temperature() * energies[:, 1].mean() / energies[-1, 1]
    print(f"{atoms.symbols}: {steps} steps of {args.step} fs at {kelvin:.0f} K")
    print(f"kinetic energy {unit * energies[:, 1].mean():.2f} meV/atom")
    print(f"drift of the total energy {unit * slope:+.3f} meV/atom/ps")
    print(f"swing of the total energy {unit * swing:.3f} meV/atom")


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    positive = command_line.positive
    parser.add_argument("model", type=Path, help="the folder of a model")
    parser.add_argument("--picoseconds", type=positive, default=1.0)
    parser.add_argument("--step", type=positive, default=0.5, help="in femtoseconds")
    parser.add_argument("--temperature", type=positive, default=300.0, help="in K")
    parser.add_argument("--out", type=Path, help="a trajectory, such as md.xyz")
    parser.add_argument("--seed", type=int, default=0)
    parser.run(simulate)


if __name__ == "__main__":
    main()
