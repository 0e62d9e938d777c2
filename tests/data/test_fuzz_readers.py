"""A short run of the fuzzer; a long one is `python -m tests.support.fuzz_readers --files 10000`."""

from tests.support.fuzz_readers import file_of, fuzz


def test_mutated_files_are_read_with_every_row_or_refused_in_a_sentence():
    problems = []
    fuzz(1_200, seed=1, report=problems.append)
    assert problems == []


def test_a_file_of_that_number_is_the_same_whenever_it_is_made():
    assert file_of(7, 0) == file_of(7, 0) != file_of(8, 0)
    assert len({file_of(number, 0)[0] for number in range(200)}) == 12
