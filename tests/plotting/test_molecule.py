import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch_geometric.data import Batch, Data

from pyg_atomenc.io import from_rdmol, from_smiles
from pyg_atomenc.plotting import draw_atom_weights, draw_atom_weights_png
from pyg_atomenc.plotting.molecule import _molecule

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
Draw = pytest.importorskip("rdkit.Chem.Draw.rdMolDraw2D")

BLUE, WHITE, ORANGE = (0.25, 0.55, 0.90), (1.0, 1.0, 1.0), (0.95, 0.45, 0.10)


@pytest.fixture
def mol():
    return Chem.MolFromSmiles("CC(=O)O")


def parse(svg):
    """Atoms' circles as (x, y, colour), and paths as (numbers, colour), by class."""
    circles, paths = {}, {}
    for node in ElementTree.fromstring(svg).iter():
        name, style = node.get("class", ""), node.get("style", "")
        if "ellipse" in node.tag and name:
            colour = style.split("fill:")[1].split(";")[0]
            assert name not in circles
            circles[name] = float(node.get("cx")), float(node.get("cy")), colour
        elif "path" in node.tag:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", node.get("d"))]
            paths.setdefault(name, []).append((numbers, style))
    return circles, paths


def fills(svg):
    """The colours of the atoms' circles, in the order of atoms."""
    circles = parse(svg)[0]
    return [circles[f"atom-{i}"][2] for i in range(len(circles))]


def between(white, end, part):
    """The colour that lies so far from white to an end, as hexadecimal."""
    found = [w + (e - w) * min(part, 1.0) for w, e in zip(white, end, strict=True)]
    return [int(255 * c) for c in found]


def close(colour, wanted):
    found = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


# The canonical order is another one, and the last is shuffled besides.
ORDERS = [
    "N1(C)CCC1",
    "OC(=O)c1ccccc1OC(C)=O",
    "[O-][N+](=O)c1cc(CC)ccc1OCCN",
    "C1CCCCC1C(=O)N(C)CCl",
]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("smiles", ORDERS)
def test_each_atom_has_the_colour_of_its_own_weight(smiles, shuffled):
    data = from_smiles(smiles)
    assert data.smiles != smiles
    if shuffled:
        known = Chem.MolFromSmiles(smiles)
        order = torch.randperm(data.num_nodes).tolist()
        data = from_rdmol(Chem.RenumberAtoms(known, order))
    weights = torch.rand(data.num_nodes, 3)
    circles, paths = parse(draw_atom_weights(data, weights, limits=(0.0, 1.5)))
    # By hand: the mean of heads, over the mean of the atoms of the same token.
    mean = [sum(row) / 3 for row in weights.tolist()]
    token = data.atom_to_token.tolist()
    assert len(circles) == len(token)
    for i, value in enumerate(mean):
        same = [mean[j] for j in range(len(token)) if token[j] == token[i]]
        part = value / (sum(same) / len(same))
        wanted = between(WHITE, BLUE, 1 - part)
        if part > 1:
            wanted = between(WHITE, ORANGE, (part - 1) / 0.5)
        assert close(circles[f"atom-{i}"][2], wanted)
    # That a circle lies where the atom is drawn: at the letters of its element, ...
    letters = {name for name in paths if name.startswith("atom-")}
    assert letters == {f"atom-{i}" for i, z in enumerate(data.z.tolist()) if z != 6}
    for name in letters:
        x, y, _ = circles[name]
        middles = [
            (sum(n[::2]) / len(n[::2]) - x, sum(n[1::2]) / len(n[1::2]) - y)
            for n, _ in paths[name]
        ]
        # The first letter of OH, the last one of HO.
        assert min(abs(a) + abs(b) for a, b in middles) < 12
    # ... and at the ends of its bonds, which are those of the graph.
    bonds = {tuple(map(int, re.findall(r"atom-(\d+)", n))): p for n, p in paths.items()}
    bonds = {pair: lines for pair, lines in bonds.items() if len(pair) == 2}
    edges = {tuple(pair) for pair in data.edge_index.T.tolist() if pair[0] < pair[1]}
    assert {tuple(sorted(pair)) for pair in bonds} == edges
    for (a, b), lines in bonds.items():
        if f"atom-{a}" not in letters and f"atom-{b}" not in letters:
            ends = lines[0][0][:2] + lines[-1][0][-2:]
            if len(lines) > 1:
                ends = lines[0][0]
            at = [*circles[f"atom-{a}"][:2], *circles[f"atom-{b}"][:2]]
            assert all(abs(m - n) < 8 for m, n in zip(ends, at, strict=True))


def test_weights_count_beside_the_average_of_their_token():
    data = from_smiles("CC(=O)Oc1ccccc1")
    assert data.atom_to_token.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    weights = [0.2, 0.3, 0.1, 1.0, *[1 / 6] * 5, 1 / 6]
    svg = draw_atom_weights(data, weights, legend="count")
    found = fills(svg)
    assert close(found[0], (255, 255, 255)) and set(found[3:]) == {"#FFFFFF"}
    assert close(found[1], between(WHITE, ORANGE, 0.5))
    assert close(found[2], between(WHITE, BLUE, 0.5))
    # A token in which nothing counts is average; what is not relative is centred at 0.
    assert fills(draw_atom_weights(data, [0.0] * 10)) == ["#FFFFFF"] * 10
    signed = fills(draw_atom_weights(data, [-2.0, 1.0, *[0.0] * 8], relative=False))
    assert close(signed[0], between(WHITE, BLUE, 1))
    assert close(signed[1], between(WHITE, ORANGE, 0.5))
    assert set(signed[2:]) == {"#FFFFFF"}


def test_tokens_are_outlined():
    data = from_smiles("CC(=O)Oc1ccccc1")
    circles, paths = parse(draw_atom_weights(data, [1.0] * 10))
    place = {circle[:2]: int(name[5:]) for name, circle in circles.items()}
    lines = []
    for numbers, style in paths[""]:
        if len(numbers) == 4 and "stroke:#000000" not in style:
            ends = zip(numbers[::2], numbers[1::2], strict=True)
            lines.append(tuple(sorted(place[end] for end in ends)))
    inside = [(0, 1), (1, 2), *((i, i + 1) for i in range(4, 9)), (4, 9)]
    # Twice: a dark shape, and a light one on it. The bonds 1-3 and 3-4 have none.
    assert sorted(lines) == sorted(inside * 2)
    alone = draw_atom_weights(Chem.MolFromSmiles(data.smiles), [1.0] * 10)
    assert "stroke:#727272" not in alone
    # Bonds are as wide as without.
    width = re.compile("bond-0 .*stroke-width:(.*?);")
    both = draw_atom_weights(data, [1.0] * 10), alone
    assert len({width.search(svg)[1] for svg in both}) == 1


def test_equal_weights_and_a_single_atom_are_drawn(mol):
    assert set(fills(draw_atom_weights(mol, [0.25] * 4))) == {"#FFFFFF"}
    assert fills(draw_atom_weights(Chem.MolFromSmiles("C"), [1.0]))
    assert fills(draw_atom_weights(from_smiles("C"), [1.0]))


def test_png(mol):
    assert draw_atom_weights_png(mol, [0.1] * 4).startswith(b"\x89PNG")
    data = from_smiles("CC(=O)Oc1ccccc1")
    plain = draw_atom_weights_png(data, torch.ones(10, 2), size=(300, 200))
    assert plain.startswith(b"\x89PNG") and len(plain) > 3000


def test_leaves_the_molecule_and_the_graph_alone(mol):
    data = from_smiles("CC(=O)O")
    before = set(data.keys())
    draw_atom_weights(mol, [0.1] * 4)
    draw_atom_weights(data, [0.1] * 4, mol=mol)
    assert mol.GetNumConformers() == 0 and set(data.keys()) == before


MOLECULES = [
    "C[C@H](N)C(=O)[O-]",
    "C[C@@H]([NH3+])C(=O)[O-]",
    "F/C=C/F",
    "C/C=C\\C=C\\C",
    "C[C@H]1CC[C@@H](C)CC1",
    "C[C@H]1CC[C@H](C)CC1",
    # The label of every carbon hangs on those of the others.
    "O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@H](O)[C@@H]1O",
    "C[S@](=O)c1ccccc1",
    "OC[C@H]1O[C@@H](O[C@H]2[C@H](O)[C@@H](O)[C@@H](O)O[C@@H]2CO)[C@H](O)[C@@H](O)C1",
    "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc34)[C@@H]1CC[C@@H]2O",
    "[13CH3][N+](=O)[O-]",
    "[2H]C([2H])O",
    "C[CH2]",
    "[O-][n+]1ccccc1",
    "O=c1[nH]cnc2c1ncn2C",
    "[Na+].CC(=O)[O-]",
    "C[C@H](O)*",
]


def as_read(mol):
    """What a reader of the drawing makes of it, wedges and all."""
    drawn = Draw.PrepareMolForDrawing(mol)
    return Chem.MolFromMolBlock(Chem.MolToMolBlock(drawn))


@pytest.mark.parametrize("smiles", MOLECULES)
def test_draws_the_molecule_that_the_graph_is(smiles):
    known = Chem.MolFromSmiles(smiles)
    for _ in range(3):
        text = Chem.MolToSmiles(known, doRandom=True)
        read = as_read(_molecule(from_smiles(text), None))
        wanted = as_read(Chem.MolFromSmiles(text))
        assert Chem.MolToSmiles(read) == Chem.MolToSmiles(wanted)
    assert ("@" in smiles) == ("@" in Chem.MolToSmiles(read))


@pytest.mark.parametrize("smiles", MOLECULES)
def test_without_a_smiles_it_is_drawn_without_stereo(smiles):
    known = Chem.MolFromSmiles(smiles)
    order = torch.randperm(known.GetNumAtoms()).tolist()
    given = Chem.RenumberAtoms(known, order)
    read, wanted = as_read(_molecule(from_rdmol(given), None)), as_read(given)
    for mol in (read, wanted):
        Chem.RemoveStereochemistry(mol)
    assert Chem.MolToSmiles(read) == Chem.MolToSmiles(wanted)


def test_draws_hydrogens_and_a_part_of_a_molecule():
    data = from_smiles("C/C=C/[C@H](N)O", hydrogens=True)
    drawn = Chem.RemoveHs(_molecule(data, None))
    assert Chem.CanonSmiles(Chem.MolToSmiles(drawn)).count("@") == 1
    # The double bond has lost an end, and its centre two neighbours.
    part = from_smiles("C/C=C/[C@H](N)O").subgraph(torch.tensor([1, 2, 3]))
    assert Chem.MolToSmiles(_molecule(part, None)).count("@") == 0
    assert len(fills(draw_atom_weights(part, [1.0] * 3))) == 3


def test_a_molecule_for_a_graph_keeps_its_drawing():
    data, mol = from_smiles("CCO"), Chem.MolFromSmiles("CCO")
    line = Chem.Conformer(3)
    line.Set3D(False)
    for i in range(3):
        line.SetAtomPosition(i, (1.5 * i, 0.0, 0.0))
    mol.AddConformer(line)
    heights = [
        y for _, y, _ in parse(draw_atom_weights(data, [1] * 3, mol=mol))[0].values()
    ]
    assert max(heights) - min(heights) < 1
    bent = [y for _, y, _ in parse(draw_atom_weights(data, [1] * 3))[0].values()]
    assert max(bent) - min(bent) > 10


def test_names_of_atoms_when_asked():
    data = from_smiles("OC(=O)CN")
    plain, named = (
        draw_atom_weights(data, [1.0] * 5, atom_names=names) for names in (False, True)
    )
    assert plain.count("class='note'") == 0 and named.count("class='note'") > 4


def test_marks_nothing_but_weights():
    data = from_smiles("C" * 60)
    assert "#FF0000" not in draw_atom_weights(data, torch.ones(60), size=(200, 200))


def test_a_single_atom_is_no_larger_than_others():
    drawn = fills(draw_atom_weights(from_smiles("[Na+]"), [1.0], size=(450, 350)))
    assert len(drawn) == 1
    (ring,) = re.findall(
        r"<ellipse [^>]*rx='([\d.]+)'[^>]*class='atom-0'",
        (draw_atom_weights(from_smiles("[Na+]"), [1.0])),
    )
    assert 10 < float(ring) < 40


@pytest.mark.parametrize(
    "smiles, message",
    [
        (
            "CC(=O)CO",
            r"other elements and charges: .*6, 0\), \(8, 0\)\], and the graph",
        ),
        ("OC(=O)C", r"other elements and charges: \[\(8, 0\), .*graph \[\(6, 0\), "),
        ("CC(=O)[O-]", r"other elements and charges: .*\(8, -1\)\], and the graph"),
        ("CCOO", "other bonds: pass the same molecule, with its atoms in the order"),
    ],
)
def test_another_molecule_is_refused(smiles, message):
    with pytest.raises(ValueError, match=f"'mol' has {message}"):
        draw_atom_weights(
            from_smiles("CC(=O)O"), [1.0] * 4, mol=Chem.MolFromSmiles(smiles)
        )


@pytest.mark.parametrize(
    "weights, options, message",
    [
        ([0.1] * 3, {}, r"'weights' needs the shape \[4\], found: \[3\]"),
        (torch.ones(2, 4), {}, r"found: \[2\]; one number per atom of 'data', or one"),
        ([0.1, float("nan"), 0.2, 0.3], {}, "'weights' is nan for atom 1"),
        ([0.1, 0.2, -0.3, 0.3], {}, "'weights' is -0.3 for atom 2: .*relative=False"),
        ([0.1] * 4, {"limits": (1.0, 2.0)}, "'limits' is .*: 1 must lie between"),
        (
            [0.1] * 4,
            {"limits": (1, 2), "relative": False},
            "'limits' is .*: 0 must lie",
        ),
        ([0.1] * 4, {"size": (10, 300)}, "'size' is"),
    ],
)
@pytest.mark.parametrize("read", [Chem.MolFromSmiles, from_smiles])
def test_bad_input(read, weights, options, message):
    with pytest.raises(ValueError, match=message):
        draw_atom_weights(read("CC(=O)O"), weights, **options)


def test_no_molecule():
    with pytest.raises(ValueError, match="'mol' is of type NoneType"):
        draw_atom_weights(None, [])
    with pytest.raises(ValueError, match="'mol' has no atoms"):
        draw_atom_weights(Chem.Mol(), [])
    with pytest.raises(ValueError, match="'data' is of type Data: pass one Atom"):
        draw_atom_weights(Data(z=torch.ones(1)), [1.0])
    data = from_smiles("CO")
    batch = Batch.from_data_list([data, data])
    with pytest.raises(ValueError, match=r"'data' is .*; of a batch batch\[i\]"):
        draw_atom_weights(batch, [1.0] * 4)
    assert len(fills(draw_atom_weights(batch[1], [1.0] * 2))) == 2
    del data.formal_charge
    with pytest.raises(ValueError, match="'formal_charge' is missing from the data"):
        draw_atom_weights(data, [1.0] * 2)
