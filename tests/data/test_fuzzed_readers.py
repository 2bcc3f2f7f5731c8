"""Every reader on its genuine files and on some mutations of them; ``python -m tests.fuzz.readers`` has many more."""

import pytest

from tests.fuzz.readers import input_of, read_one
from tests.fuzz.seeds import READERS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path, name):
    reader = READERS[name]
    seeds = reader.make(tmp_path)
    assert read_one(reader, tmp_path, seeds[0], show=False) == "read"
    outcomes = [read_one(reader, tmp_path, input_of(seeds, 0, name, number), show=False) for number in range(40)]
    assert set(outcomes) <= {"read", "refused"} and "refused" in outcomes
