"""YAML is read by the core schema of 1.2, and what cannot be is one sentence with its line."""

import time

import pytest

from chatpipe.config.yaml_files import read_mapping, read_value, to_yaml
from chatpipe.errors import ConfigError


def read(tmp_path, content):
    path = tmp_path / "some.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_mapping(path)


def fault(tmp_path, content):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, content)
    [sentence] = error.value.faults
    assert sentence.startswith(f"{tmp_path / 'some.yaml'}: ") and sentence.endswith((".", "?"))
    return sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-3", -3),
        ("0", 0),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("'1'", "1"),
        ("[1, 1e-4, a]", [1, 1e-4, "a"]),
        ("{a: 1}", {"a": 1}),
        ("1e5a", "1e5a"),
        ("a: b", {"a": "b"}),
    ],
)
def test_values(text, value):
    result = read_value(text)
    assert result == value and type(result) is type(value)


def test_what_is_written_reads_back():
    texts = ["1e4", "12e45678", "no", "010", "2024-01-01", "1:30", "null", "a: b", "ü\n", "~", "é"]
    assert read_value(to_yaml(texts)) == texts
    assert read_value(to_yaml({"a": [1e-05, 3, True, None]})) == {"a": [1e-05, 3, True, None]}


def test_anchors_and_merge_keys_are_read(tmp_path):
    text = "below: &a {x: 1, y: 2}\nabove: {<<: *a, y: 3}\n"
    assert read(tmp_path, text)["above"] == {"x": 1, "y": 3}


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    assert read(tmp_path, "\ufeffa: 1") == {"a": 1}


LAUGHS = "\n".join(
    ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("a:\n  - {b: Is it a prime?}", "line 2 has a '?' in a text within brackets; put the text"),
        ("a: [Is it?, no]", "line 1 has a '?' in a text within brackets; put the text in quotes"),
        ("- a\n- b\n", "expected keys and values, found a list"),
        ("just text", "expected keys and values, found a single value"),
        ("a: 1\nb: 2\na: 3\n", "line 3 is not valid YAML: the key a is there twice"),
        ("a:\n\tb: 1\n", "line 2 is indented with a tab; use spaces"),
        ("a: [1,\n", "line 2 "),
        ("a: 1\nb: \x00\n", "line 2 holds the control character U+0000"),
        ("a: 1\nb: é\n".encode("latin-1"), "line 2 is not UTF-8 text"),
        ("a: 1\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("[" * 100_000, "nested more than 24 levels deep"),
        ("a: " + "[" * 200 + "]" * 200, "nested more than 24 levels deep"),
        ("".join(" " * i + f"a{i}:\n" for i in range(300)), "nested more than 24 levels deep"),
        (LAUGHS, "expands to more than 100,000 values; use fewer aliases"),
        ("a: &a [*a]", "an alias is inside the value that it repeats"),
        ("a: *b", "undefined alias"),
        (
            "a: b: c",
            "line 1 holds ': ' within a value, or is indented too far; put such a value in",
        ),
        (
            "a: @x",
            "line 1 has a value that begins with a special character of YAML; put it in quotes",
        ),
        (" a: 1\nb: 2", "line 2 is not indented as the lines before it"),
        ("a: 'x\n", "ends within a quote that was opened before"),
        ("1: 2", "line 1 is not valid YAML: a key is not text"),
        ("[a]: 2", "a key is not text"),
        ("a: " + "9" * 5000, "is not a number that can be read"),
        (
            "a: !!python/object:os.system {}",
            "!!python/object:os.system is not allowed; write the value without it",
        ),
        (
            "a:\n  - !!binary aGVsbG8=\n",
            "line 2 is not valid YAML: the tag !!binary is not",
        ),
        ("!!binary aGVsbG8=: 1\n", "!!binary is not allowed"),
        ("a: !!timestamp 2024-01-01", "!!timestamp is not allowed"),
        ("a: !!set {b}", "!!set is not allowed"),
        ("a: !own 1", "!own is not allowed"),
        ("a: !!bool perhaps", "perhaps is not a valid !!bool"),
        ("a: !!null word", "word is not a valid !!null"),
        ("a: 1\n---\nb: 2\n", "line 2 begins another document"),
        ("a: 1\n" * 300_000, "is larger than 1 MiB"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path, content, words):
    started = time.process_time()
    assert words in fault(tmp_path, content)
    assert time.process_time() - started < 10


def test_what_is_no_readable_file_is_a_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_mapping(path)
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"it is a link to .*gone.yaml, which is not there"):
        read_mapping(link)
