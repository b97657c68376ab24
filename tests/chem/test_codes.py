import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyg_atomenc.chem.codes import by_first_atom, code, join

words = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3)), min_size=1)


@given(words)
def test_codes_are_equal_where_all_columns_are(rows):
    letters, numbers = (np.array(column) for column in zip(*rows, strict=True))
    joined = join(code(letters), code(numbers))
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            assert (joined[i] == joined[j]) == (row == other)


@given(words)
def test_numbered_by_first_appearance(rows):
    letters = [letter for letter, _ in rows]
    rank, first = by_first_atom(code(np.array(letters)))
    seen = list(dict.fromkeys(letters))
    assert rank.tolist() == [seen.index(letter) for letter in letters]
    assert first.tolist() == [letters.index(letter) for letter in seen]
