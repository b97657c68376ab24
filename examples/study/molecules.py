"""Molecules of the study: values, graphs cut into tokens, scaffolds, splits.

Three sets lie in `examples/data`; `moleculenet:HIV` and others with one target come by
PyG's `MoleculeNet`, where the network allows it. Graphs are made once and cached.
"""

import csv
import hashlib
import random
from pathlib import Path

import torch
from torch_geometric.utils import scatter
from tqdm import tqdm

import pyg_atomenc
from pyg_atomenc import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io import from_smiles
from pyg_atomenc.tokenizers import BRICS, RingsAndChains, Smarts
from pyg_atomenc.transforms import AtomFeatures, TokenEdges

Chem = require_package("rdkit.Chem", "the study")
Crippen = require_package("rdkit.Chem.rdMolDescriptors", "the study")
Murcko = require_package("rdkit.Chem.Scaffolds.MurckoScaffold", "the study")

DATA = Path(__file__).resolve().parents[1] / "data"
GROUPS = {
    "acid or ester": "[CX3](=O)[OX2,OX1-]",
    "amide": "[CX3](=O)[NX3]",
    "nitro": "[NX3+](=O)[O-]",
    "sulfonyl": "[#16X4](=O)=O",
    "nitrile": "C#N",
    "carbonyl": "[CX3]=O",
    "six aromatic": "a1aaaaa1",
    "five aromatic": "a1aaaa1",
    "amine": "[NX3]",
    "oxygen": "[OX2]",
    "halogen": "[F,Cl,Br,I]",
}
# Random tokens have the sizes of BRICS's, and are drawn anew for every seed.
TOKENIZERS = {
    "brics": BRICS(),
    "rings": RingsAndChains(),
    "smarts": Smarts(GROUPS, rest="component"),
    "random": BRICS(),
}
# Isotopes are told in none of the sets.
KEPT = [i for i, name in enumerate(AtomFeatures.columns) if name != "isotope"]
SIZES = [AtomFeatures.sizes[i] for i in KEPT]
OFFSETS = torch.tensor([0, *SIZES[:-1]]).cumsum(0)


def read_table(name, cache):
    """SMILES and values of a set, and what its bytes hash to."""
    if name.startswith("moleculenet:"):
        rows = _from_moleculenet(name.partition(":")[2], cache)
        text = repr(rows)
    else:
        text = (DATA / f"{name}.csv").read_text(encoding="utf-8")
        table = list(csv.DictReader(text.splitlines()))
        (value,) = set(table[0]) - {"smiles", "name"}
        rows = [(row["smiles"], float(row[value])) for row in table]
    return rows, hashlib.sha256(text.encode()).hexdigest()[:12]


def _from_moleculenet(name, cache):
    from torch_geometric.data import Data
    from torch_geometric.datasets import MoleculeNet

    def keep_text(smiles):
        return Data(smiles=smiles, num_nodes=1)

    try:
        dataset = MoleculeNet(cache / "moleculenet", name, from_smiles=keep_text)
    except OSError as error:
        text = f"moleculenet:{name} cannot be downloaded, as it seems: {error}"
        mend = "leave it out, or run where the network allows it."
        raise SystemExit(f"{text}\nThen {mend}") from None
    if dataset[0].y.numel() > 1:
        raise SystemExit(f"moleculenet:{name} has several targets: take HIV or BACE.")
    return [(data.smiles, data.y.item()) for data in dataset if data.y.isfinite()]


def load_graphs(name, tokens, cache, limit=None):
    """All graphs of a set, cut by a tokenizer, from the cache or made anew.

    Of each: `x` [N, 10] with categories as rows of one table of embeddings, bonds,
    `atom_to_token`, `token_edge_index`, `contribution` [N] (Crippen's, to logP, with
    the atom's hydrogens), `y` [1], `smiles`, `scaffold`.
    """
    rows, digest = read_table(name, cache)
    kind = "brics" if tokens == "random" else tokens
    stem = f"{name.replace(':', '-')}-{kind}-{limit or 'all'}-{digest}"
    path = cache / f"{stem}-{pyg_atomenc.__version__}.pt"
    if not path.exists():
        found = []
        # From all of the table, whose rows may have an order.
        rows = rows[:: max(1, len(rows) // limit)][:limit] if limit else rows
        for smiles, value in tqdm(rows, desc=f"{name}, {kind}", leave=False):
            try:
                found.append(_make_graph(smiles, value, TOKENIZERS[tokens]))
            except AtomEncodingError as error:
                tqdm.write(f"left out of {name}: {error}")
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run that is killed here must not leave half a file.
        torch.save(found, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return [AtomTokenData(**graph) for graph in torch.load(path, weights_only=True)]


def _make_graph(smiles, value, tokenizer):
    data = TokenEdges(["bond"])(AtomFeatures()(from_smiles(smiles, tokenizer)))
    mol = Chem.MolFromSmiles(data.given_smiles)
    return dict(
        x=data.x[:, KEPT] + OFFSETS,
        edge_index=data.edge_index,
        edge_attr=data.edge_attr,
        atom_to_token=data.atom_to_token,
        num_tokens=data.num_tokens,
        token_edge_index=data.token_edge_index,
        contribution=atom_contributions(mol),
        y=torch.tensor([value]),
        smiles=data.smiles,
        scaffold=Murcko.MurckoScaffoldSmiles(mol=mol),
    )


def atom_contributions(mol):
    """Crippen's contribution of every atom to logP [N], with its hydrogens'."""
    count, full = mol.GetNumAtoms(), Chem.AddHs(mol)
    values = [logp for logp, _ in Crippen._CalcCrippenContribs(full)]
    total = torch.tensor(values[:count])
    for atom in list(full.GetAtoms())[count:]:
        total[atom.GetNeighbors()[0].GetIdx()] += values[atom.GetIdx()]
    return total


def with_random_tokens(graphs, seed):
    """The same graphs with atoms dealt at random to tokens of the same sizes.

    No token need be connected: what is compared is chemistry with chance.
    """
    generator = torch.Generator().manual_seed(seed)
    dealt = []
    for data in graphs:
        data = data.clone()
        order = torch.randperm(data.num_nodes, generator=generator)
        data.atom_to_token = data.atom_to_token[order]
        del data.token_edge_index
        data = TokenEdges(["bond"])(data)
        del data.token_edge_attr
        dealt.append(data)
    return dealt


def token_target(data, task):
    """Of every token [T]: the sum or the largest of its atoms' contributions."""
    reduce = task.removeprefix("fragment-")
    return scatter(data.contribution, data.atom_to_token, 0, data.num_tokens, reduce)


def split(graphs, kind, seed, share=0.1):
    """Indices for training, validation and test, a tenth each for the last two.

    "random" deals molecules; "scaffold" whole groups of one Bemis-Murcko scaffold: in
    an order by the seed, a group goes to the smaller of the test and the validation set
    that has room for it, and what fits into neither is for training. A group larger
    than a tenth, such as that of all molecules without rings, always is.
    """
    room = max(1, round(share * len(graphs)))
    groups = [[i] for i in range(len(graphs))]
    if kind == "scaffold":
        by_scaffold = {}
        for i, data in enumerate(graphs):
            by_scaffold.setdefault(data.scaffold, []).append(i)
        groups = list(by_scaffold.values())
    random.Random(seed).shuffle(groups)
    train, valid, test = [], [], []
    for group in groups:
        fits = [part for part in (test, valid) if len(part) + len(group) <= room]
        min(fits or [train], key=len).extend(group)
    if not (train and valid and test):
        raise SystemExit(f"{len(graphs)} molecules are too few for a {kind} split.")
    return train, valid, test
