"""The model of `train_forces.py` and `run_dynamics.py`: an energy and its gradient.

Import it for a script of your own: any batch with `z`, `pos`, bonds and tokens will do.
"""

import json
from pathlib import Path

import torch
from command_line import check_finite
from torch import nn
from torch_geometric.nn import GINEConv, global_add_pool
from torch_geometric.nn.models.schnet import GaussianSmearing
from torch_geometric.utils import scatter

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData, TokenAttentionConv
from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.errors import FileFormatError, require_package
from pyg_atomenc.io import from_smiles

safetensors = require_package("safetensors.torch", "potential.py")


def mlp(in_channels, channels, out_channels):
    # Smooth: forces are a first derivative, and training them takes a second.
    lins = nn.Linear(in_channels, channels), nn.Linear(channels, out_channels)
    return nn.Sequential(lins[0], nn.SiLU(), lins[1])


class Potential(nn.Module):
    """Bonds tell atoms apart, distances say where they are; tokens have energies.

    Positions are seen through distances alone: turning, shifting or mirroring a
    molecule changes nothing.
    """

    def __init__(self, channels=64, heads=4, layers=2, num_rbf=64, cutoff=5.0):
        super().__init__()
        self.config = {k: v for k, v in locals().items() if isinstance(v, (int, float))}
        self.cutoff, sizes = cutoff, (channels, channels // heads, heads)
        self.element = nn.Embedding(119, channels)
        self.bonds, self.convs, self.mlps, self.norms = map(nn.ModuleList, [[]] * 4)
        for _ in range(2):
            lins = mlp(channels, channels, channels)
            self.bonds.append(GINEConv(lins, edge_dim=5))
        self.rbf = GaussianSmearing(0.0, cutoff, num_rbf)
        self.pair = mlp(num_rbf + channels, channels, channels)
        for _ in range(layers):
            self.convs.append(TokenAttentionConv(*sizes, edge_dim=channels))
            self.mlps.append(mlp(channels, 2 * channels, channels))
            self.norms.extend([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.encoder = AtomAttentionEncoder(*sizes, edge_dim=channels, reduce="sum")
        self.head = mlp(channels, channels, 1)
        # In eV: the mean energy of an atom, and the unit of what is learnt.
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def pairs(self, x, pos, layout):
        """Features [P, channels] of the pairs of a layout; distances fade out."""
        i, j = layout.to_edge_index()
        # An atom is at distance 0 of itself, where a root has no derivative.
        own = (i == j).to(pos.dtype)
        distance = ((pos[i] - pos[j]).square().sum(dim=1) + own).sqrt() - own
        near = (distance / self.cutoff).clamp(max=1.0)
        fade = (0.5 + 0.5 * (torch.pi * near).cos()).square()
        rbf = self.rbf(distance) * fade.unsqueeze(1)
        return self.pair(torch.cat([rbf, x[i] * x[j]], dim=1))

    def forward(self, batch):
        """Energies [num_graphs] in eV."""
        kind = self.element(batch.z)
        for conv in self.bonds:
            kind = kind + conv(kind, batch.edge_index, batch.edge_attr.to(kind.dtype))
        # All pairs of a molecule: weights of attention sum to one, so an edge that came
        # or went as atoms move would be a jump of the energy.
        molecule = TokenLayout.from_index(batch.batch, batch.num_graphs)
        pairs = self.pairs(kind, batch.pos, molecule)
        x = kind + scatter(pairs, molecule.to_edge_index()[1], 0, len(kind))
        for i, (conv, lins) in enumerate(zip(self.convs, self.mlps, strict=True)):
            x = x + conv(self.norms[2 * i](x), molecule, pairs)
            x = x + lins(self.norms[2 * i + 1](x))
        token = batch.token_layout()
        pairs = self.pairs(kind, batch.pos, token)
        energy = self.head(self.encoder(x, token, edge_attr=pairs)).squeeze(1)
        energy = global_add_pool(energy, batch.token_batch, batch.num_graphs)
        atoms = batch.batch.bincount(minlength=batch.num_graphs)
        return self.scale * energy + self.shift * atoms


def energy_and_forces(model, batch, create_graph=False):
    """Energies [num_graphs] in eV, and forces [N, 3] in eV/Å."""
    batch.pos = batch.pos.detach().requires_grad_()
    energy = model(batch)
    (grad,) = torch.autograd.grad(energy.sum(), batch.pos, create_graph=create_graph)
    return energy, -grad


def read_molecule(smiles):
    """What the model reads of a molecule, hydrogens last, for frames of it to share."""
    data = from_smiles(smiles, hydrogens=True)
    names = ("z", "edge_index", "edge_attr", "atom_to_token", "num_tokens")
    return AtomTokenData(**{name: data[name] for name in names})


def check_bonds(path, molecule, atoms):
    """Whether ASE's atoms are near to those that the molecule has them bonded to.

    Where they are not, they are in another order: their elements do not tell.
    """
    radii = require_package("ase.data", "check_bonds").covalent_radii[atoms.numbers]
    for i, j in molecule.edge_index.t().tolist():
        far = atoms.get_distance(i, j)
        if not far < 1.3 * (radii[i] + radii[j]):
            pair = " and ".join(f"{k} ({atoms.symbols[k]})" for k in (i, j))
            why = f"{far:.2f} Å apart, which are bonded in the SMILES: mend the order"
            raise FileFormatError(f"{path}: has the atoms {pair}, from 0, {why}")


def frame(molecule, pos):
    """The molecule at positions [N, 3] in Å."""
    data = molecule.clone()
    data.pos = torch.as_tensor(pos, dtype=molecule.edge_attr.dtype)
    return data


def save(model, smiles, folder):
    """Write `model.safetensors` and `config.json`, of a model without NaN."""
    check_finite("the model", *model.state_dict().values())
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(model.state_dict(), folder / "model.safetensors")
    config = {"smiles": smiles, "model": model.config}
    config = json.dumps(config, indent=2, allow_nan=False)
    (folder / "config.json").write_text(config + "\n", "utf-8")


def load(folder):
    """The model of a folder, and the SMILES of its molecule."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        model = Potential(**config["model"])
        weights = safetensors.load_file(Path(folder) / "model.safetensors")
        model.load_state_dict(weights)
    except Exception as error:
        why = f"holds no model of train_forces.py ({type(error).__name__}: {error})"
        raise FileFormatError(f"{folder}: {why}. Train it anew.") from error
    return model.eval(), config["smiles"]
