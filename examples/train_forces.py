"""A potential for a molecule, learnt from energies and forces.

    python examples/train_forces.py "CC(=O)NC" --out my_potential
    python examples/run_dynamics.py my_potential

Draws frames of the molecule at --temperature from RDKit's force field MMFF94, or reads
yours from --frames: what ASE reads, with energies in eV and forces in eV/Å, the atoms
in the order of the SMILES, then hydrogens, the first atom's first. The model, of
`potential.py`, has forces that are minus the gradient of its energy, so training takes
a second derivative. The last fifth of the frames is held out; of those that are drawn,
whole trajectories. Writes `model.safetensors` and `config.json`. Needs the extras
`chem` and `save`, and `pip install ase` for --frames.
"""

from pathlib import Path

import command_line
import numpy as np
import torch
from potential import (
    Potential,
    check_bonds,
    energy_and_forces,
    frame,
    read_molecule,
    save,
)
from torch_geometric.loader import DataLoader
from tqdm import tqdm

from pyg_atomenc.errors import FileFormatError, require_package

Chem = require_package("rdkit.Chem", "train_forces.py")
AllChem = require_package("rdkit.Chem.AllChem", "train_forces.py")
EV = 0.0433641  # of a kcal/mol
FS = 0.0982269  # in Å √(u/eV), the unit of time that goes with eV, Å and u
KELVIN = 8.617333e-5  # in eV
# Conformers to start from, and what is drawn of each before the first frame is kept.
CONFORMERS, WARM_UP = 10, 20


def conformers(smiles, seed=0):
    """RDKit's molecule, hydrogens last, with conformers at minima of MMFF94."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    found = AllChem.EmbedMultipleConfs(mol, CONFORMERS, randomSeed=seed)
    if len(found) < CONFORMERS or not AllChem.MMFFHasAllMoleculeParams(mol):
        raise ValueError(f"{smiles}: RDKit finds no conformers, or MMFF94 lacks atoms")
    AllChem.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    return mol


def mmff(field, pos):
    """Energy in eV and forces [N, 3] in eV/Å of a force field of RDKit."""
    flat = pos.ravel().tolist()
    # In this order: the gradient takes distances that the energy has left behind.
    energy, grad = field.CalcEnergy(flat), field.CalcGrad(flat)
    return EV * energy, -EV * np.reshape(grad, pos.shape)


def draw(smiles, count, temperature, seed):
    """Frames of a molecule by MMFF94: velocities are drawn anew every 20 fs."""
    mol, random, step = conformers(smiles, seed), np.random.default_rng(seed), 0.5 * FS
    mass = np.array([[atom.GetMass()] for atom in mol.GetAtoms()])
    properties, frames = AllChem.MMFFGetMoleculeProperties(mol), []
    for chain in tqdm(range(CONFORMERS), desc="drawing", unit="trajectory"):
        field = AllChem.MMFFGetMoleculeForceField(mol, properties, confId=chain)
        pos = mol.GetConformer(chain).GetPositions()
        energy, force = mmff(field, pos)
        kept = count * (chain + 1) // CONFORMERS - len(frames)
        for number in range(WARM_UP + kept):
            noise = random.standard_normal(pos.shape)
            velocity = np.sqrt(KELVIN * temperature / mass) * noise
            for _ in range(40):
                velocity = velocity + 0.5 * step * force / mass
                pos = pos + step * velocity
                energy, force = mmff(field, pos)
                velocity = velocity + 0.5 * step * force / mass
            if number >= WARM_UP:
                frames.append((pos, energy, force))
    return frames


def read(path, smiles):
    """Frames of a file, by ASE, if they are of this molecule."""
    frames, molecule = [], read_molecule(smiles)
    read_all = require_package("ase.io", "--frames").read
    try:
        found = read_all(path, ":")
    except Exception as error:
        # ASE's readers raise errors of every kind.
        raise FileFormatError(f"{path}: ASE cannot read it ({error!r})") from error
    for number, atoms in enumerate(found):
        if atoms.numbers.tolist() != molecule.z.tolist():
            text = f"{atoms.symbols} in place of the atoms of {smiles}, hydrogens last"
            raise ValueError(f"{path}: frame {number} has {text}")
        if number == 0:
            check_bonds(path, molecule, atoms)
        try:
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        except (NotImplementedError, RuntimeError) as error:
            text = f"frame {number} has no energy, or no forces"
            raise FileFormatError(f"{path}: {text}") from error
        frames.append((atoms.positions, energy, forces))
    return frames


def labelled(molecule, frames):
    if len(frames) < 5:
        raise ValueError(f"{len(frames)} frames are too few: a fifth is held out")
    graphs = []
    for number, (pos, energy, forces) in enumerate(frames):
        graphs.append(data := frame(molecule, pos))
        data.energy = torch.tensor([energy], dtype=torch.float)
        data.forces = torch.as_tensor(forces, dtype=torch.float)
        numbers = data.pos, data.energy, data.forces
        command_line.check_finite(f"a number of frame {number}", *numbers)
    return graphs


def fit(model, graphs, args):
    """Train on energies and forces, each in units of the scale."""
    loader = DataLoader(graphs, batch_size=8, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters())
    steps = args.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    bar = tqdm(range(args.epochs), desc="training", unit="epoch")
    for _ in bar:
        for batch in loader:
            batch = batch.to(args.device)
            energy, forces = energy_and_forces(model, batch, create_graph=True)
            wrong_forces = (forces - batch.forces) / model.scale
            wrong_energy = (energy - batch.energy) / model.scale
            loss = wrong_forces.square().mean() + 0.2 * wrong_energy.square().mean()
            command_line.check_finite("the loss", loss)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")


def errors(model, graphs, device):
    """The mean absolute errors of energies, and of the forces' components."""
    found = []
    for batch in DataLoader(graphs, batch_size=64):
        energy, forces = energy_and_forces(model, batch.to(device))
        found.append(((energy - batch.energy).detach(), forces - batch.forces))
    return [torch.cat(wrong).abs().mean().item() for wrong in zip(*found, strict=True)]


def train(args):
    molecule = read_molecule(args.smiles)
    if args.frames:
        if args.count or args.temperature:
            raise ValueError("--count and --temperature are not for --frames")
        frames = read(args.frames, args.smiles)
    else:
        wanted = args.count or 1000, args.temperature or 500.0
        frames = draw(args.smiles, *wanted, args.seed)
    graphs = labelled(molecule, frames)
    cut = len(graphs) * 4 // 5
    learnt, tested = graphs[:cut], graphs[cut:]
    energy = torch.cat([data.energy for data in learnt])
    forces = torch.stack([data.forces for data in learnt])
    torch.manual_seed(args.seed)
    model = Potential()
    model.scale.fill_(command_line.scale_of(forces)[1])
    model.shift.fill_(energy.mean() / len(molecule.z))
    fit(model.to(args.device), learnt, args)
    save(model, args.smiles, args.out)
    of_model = errors(model, tested, args.device)
    wrong = [
        (data.energy - energy.mean(), data.forces - forces.mean(0)) for data in tested
    ]
    of_mean = [torch.cat(part).abs().mean().item() for part in zip(*wrong, strict=True)]
    print(f"| of {len(tested)} held-out frames | energy, meV/atom | forces, meV/Å |")
    print("|---|---:|---:|")
    for name, (e, f) in {"the model": of_model, "the mean": of_mean}.items():
        print(f"| {name} | {1e3 * e / len(molecule.z):.2f} | {1e3 * f:.1f} |")


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    count, positive = command_line.count, command_line.positive
    parser.add_argument("smiles")
    parser.add_argument("--frames", type=Path, help="such as an .xyz of ASE")
    parser.add_argument("--count", type=count, help="of frames to draw (1000)")
    parser.add_argument("--temperature", type=positive, help="in K (500)")
    parser.add_argument("--out", type=Path, default=Path("outputs/potential"))
    parser.add_argument("--epochs", type=count, default=50)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=command_line.device, default=device)
    parser.add_argument("--seed", type=int, default=0)
    parser.run(train)


if __name__ == "__main__":
    main()
