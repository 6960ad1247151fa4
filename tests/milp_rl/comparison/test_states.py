"""Files of states are read whole, and what is in doubt is an error."""

import pytest

from milp_rl.comparison.states import read_states


def states(tmp_path, text, **options):
    path = tmp_path / "states.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_states(path, **options).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        (b"\xef\xbb\xbf1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("severity,load\n1,2\n", [[1, 2]]),
        (b"\xef\xbb\xbfseverity,load\r\n1,2\r\n", [[1, 2]]),
        ('"blood pressure, mean",x[0]\n1e-3,-2.5\n', [[1e-3, -2.5]]),
        ("\n\n 1 ,2\n\n3,4", [[1, 2], [3, 4]]),
        ("0,1\n1,1\n", [[0, 1], [1, 1]]),
        ("Größe\n7\n", [[7]]),
    ],
)
def test_states_are_read_whole(tmp_path, text, expected):
    assert states(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("1,2x\n3,4\n", "line 1, column 2: '2x'"),
        ("O.5\n1\n2\n", "line 1, column 1: 'O.5'"),
        ("l,2\n3,4\n", "line 1, column 1: 'l'"),
        ("NA,NA\n3,4\n", "line 1, column 1: 'NA'"),
        ("nan,1\n3,4\n", "line 1, column 1: 'nan'"),
        (",severity\n0,4\n", "line 1, column 1: ''"),
        ("severity,2\n3,4\n", "line 1, column 1: 'severity'"),
        ("a,b\n\n3,4\n5,inf\n", "line 4, column 2: 'inf'"),
        ("a,b\n3,4\n5,1_000\n", "line 3, column 2: '1_000'"),
        ("1;2\n3;4\n", "line 1, column 1: '1;2'"),
        ("1,2\n3,4,5\n", "line 2: a state of 3 values, the first has 2"),
        ("0,1,2\n0.5,0.25,1\n", "line 1: 0,1,2 may be the numbers of the columns"),
        ("severity,load\n", "no states"),
        ("", "no states"),
        (b"\xff\xfe1\x00,\x002\x00", "is in UTF-16: save it as UTF-8"),
        ("1," + "2" * 200_000, "line 1: not CSV: field larger"),
        ('1,"2\n', "line 1: not CSV: unexpected end"),
        ("1;2\n", "line 1, column 1: '1;2' is not a finite number: separate values by commas"),
        (b"1,2\n3,4\xe9\n", "line 2, column 4: the byte 0xe9 is not UTF-8"),
        (b"1,2\0\n", "is binary data"),
    ],
)
def test_states_in_doubt_are_an_error_with_file_line_and_column(tmp_path, text, where):
    with pytest.raises(ValueError, match=r"states\.csv") as error:
        states(tmp_path, text)
    assert where in str(error.value)


def test_a_header_may_be_asked_for_or_denied(tmp_path):
    assert states(tmp_path, "0,1,2\n0.5,0.25,1\n", header=True) == [[0.5, 0.25, 1]]
    assert states(tmp_path, "0,1,2\n0.5,0.25,1\n", header=False) == [[0, 1, 2], [0.5, 0.25, 1]]
    assert states(tmp_path, ",1\n3,4\n", header=True) == [[3, 4]]
    with pytest.raises(ValueError, match="line 1, column 1: 'severity'"):
        states(tmp_path, "severity,load\n1,2\n", header=False)
