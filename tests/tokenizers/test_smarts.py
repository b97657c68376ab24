import pickle

import pytest

from pyg_atomenc.tokenizers import Smarts

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
MOL = Chem.MolFromSmiles("OC(=O)c1ccccc1CCO")


def test_patterns_in_their_order():
    tokens = Smarts({"acid": "C(=O)[OX2H1]", "carbonyl": "C=O", "ring": "c1ccccc1"})(
        MOL
    )
    assert tokens.atom_to_token.tolist() == [0, 0, 0] + [1] * 6 + [2, 3, 4]
    assert tokens.attributes["token_name"] == ["acid", "ring", "C", "C", "O"]
    tokens = Smarts(["C=O", "C(=O)[OX2H1]"], rest="component")(MOL)
    assert tokens.attributes["token_name"] == ["rest", "C=O", "rest"]
    assert tokens.atom_to_token.tolist() == [0, 1, 1] + [2] * 9


def test_hydrogens_follow_their_atom():
    tokens = Smarts(["[CH3]"])(Chem.AddHs(Chem.MolFromSmiles("CO")))
    assert tokens.atom_to_token.tolist() == [0, 1, 0, 0, 0, 1]


def test_many_matches():
    tokens = Smarts(["CC"])(Chem.MolFromSmiles("C" * 3000))
    assert tokens.num_tokens == 1500


def test_can_travel():
    assert repr(pickle.loads(pickle.dumps(Smarts(["CC"])))) == (
        "Smarts(['CC'], rest='atom')"
    )


@pytest.mark.parametrize(
    "patterns, rest, message",
    [
        ([], "atom", "'patterns' is \\[\\]"),
        ("CC", "atom", "'patterns' is 'CC'"),
        ({"bad": "C(("}, "atom", "'patterns' has 'C\\(\\(' for 'bad'"),
        ([3], "atom", "'patterns' has 3"),
        (["C"], "none", "'rest' is 'none'"),
    ],
)
def test_bad_arguments(patterns, rest, message):
    with pytest.raises(ValueError, match=message):
        Smarts(patterns, rest)


def test_every_match_counts_and_too_many_are_refused(monkeypatch):
    mol = Chem.MolFromSmiles(".".join(["CC(C)(C)C(C)(C)C(C)(C)C"] * 120 + ["CCCC"]))
    query = Chem.MolFromSmarts("*~*~*~*")
    taken, count = set(), 0
    for match in mol.GetSubstructMatches(query, maxMatches=10**7):
        if not taken & set(match):
            taken |= set(match)
            count += 1
    names = Smarts({"four": "*~*~*~*"})(mol).attributes["token_name"]
    assert names.count("four") == count > 120
    monkeypatch.setattr("pyg_atomenc.tokenizers.smarts._MOST_MATCHES", 1000)
    with pytest.raises(ValueError, match="'patterns' has .*matches too often"):
        Smarts(["*~*~*~*"])(mol)


def test_a_molecule_that_is_not_sanitized():
    mol = Chem.MolFromSmiles("C1CC1CCC", sanitize=False)
    assert Smarts(["[R]~[R]~[R]"])(mol).num_tokens == 4
    for patterns, message in (
        (3, "'patterns' is 3"),
        ({1: "C"}, "'patterns' has 'C' for 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Smarts(patterns)
