"""What gemmi sees in a structure file, one location a residue."""

from collections import Counter

import pytest


class Seen:
    """A residue as gemmi sees it."""

    def __init__(self, gemmi, chain, residue):
        self.chain, self.number = chain.name, residue.seqid.num
        self.ins, self.name = residue.seqid.icode.strip(" \0"), residue.name
        self.label = (residue.subchain, residue.label_seq)
        self.polymer = residue.entity_type == gemmi.EntityType.Polymer
        self.atoms = list(residue)

    @property
    def place(self):
        return self.chain, self.number, self.ins

    @property
    def key(self):
        return (*self.place, self.name)


def gemmi_residues(path, model=0):
    """The structure, and its residues with the heaviest of alternate locations."""
    gemmi = pytest.importorskip("gemmi", reason="gemmi is not installed")
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    chains = structure[model] if len(structure) else []
    seen = [Seen(gemmi, chain, residue) for chain in chains for residue in chain]
    weight = Counter()
    for residue in seen:
        for atom in residue.atoms:
            if atom.altloc != "\0":
                weight[residue.place, atom.altloc] += atom.occ
    best = {}
    for (place, altloc), total in weight.items():
        if place not in best or total > weight[place, best[place]] + 1e-6:
            best[place] = altloc
    for residue in seen:
        residue.atoms = [
            atom
            for atom in residue.atoms
            if atom.altloc in ("\0", best.get(residue.place))
        ]
    return structure, [residue for residue in seen if residue.atoms]
