"""What a command says of a report."""

from flows.terminal import print_report
from tests.test_report import example


def test_it_tells_of_rows_that_were_set_aside(capsys):
    print_report(example())
    told = [line for line in capsys.readouterr().out.splitlines() if "set aside" in line]
    assert told == ["sample-alpaca: 8 of 400 rows set aside: 2 duplicate, 6 empty output"]
