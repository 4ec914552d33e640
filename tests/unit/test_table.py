from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import tempfile
from contextlib import suppress
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.data.detection import detect
from leyden.data.readers import File
from leyden.data.table import Table, absent_columns, read_table, require_columns
from leyden.settings.errors import ConfigError, DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ['"', "a\nb", "a\r\nb", "a\rb", ",", "None", "NA", "nan", "\x00", "\u2028", "\ufeff", "'", "1.0", " x ", "日本"]
)


def _parquet_bytes() -> bytes:
    columns = {"a": ["one", "two", None], "b": [1, None, 3], "c": [[1, 2], [], None], "d": [0.5, 1.5, None]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


PARQUET = _parquet_bytes()


def table_of(folder: Path, name: str, content: str | bytes) -> Table:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path)


def data_faults(folder: Path, name: str, content: str | bytes) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        table_of(folder, name, content)
    return caught.value.faults


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.pq", "t.Parquet", "t.PARQUET", "t.jsonl", "t.NdJson"])
def test_endings_in_any_letter_case(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"a": ["x", "y"], "b": ["1", "2"]})
    path = tmp_path / name
    kind = name.lower().rsplit(".", 1)[1]
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind in {"pq", "parquet"}:
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    table = read_table(path)
    assert len(table) == 2
    assert table.texts("a") == ["x", "y"]
    assert table.texts("b") == ["1", "2"]


@pytest.mark.parametrize("name", ["t.json", "t", "t.csv.gz", "t.xlsx"])
def test_other_endings_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(ConfigError, match=r"dataset\.validation_dataframe=.*\.csv, \.parquet, \.pq, \.jsonl, \.ndjson"):
        read_table(tmp_path / name, setting="dataset.validation_dataframe")


def test_missing_file_folder_and_file_as_folder_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.csv").write_text("a\n1\n")
    for path, reason in [
        ("none.csv", "No such file"),
        ("folder.csv", "Is a directory"),
        ("file.csv/x.csv", "Not a dir"),
    ]:
        with pytest.raises(ConfigError, match=reason) as caught:
            read_table(tmp_path / path)
        assert f"dataset.train_dataframe={tmp_path / path}" in str(caught.value)


def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    path.chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            read_table(path)
    finally:
        os.seteuid(me)


def test_home_is_expanded_and_the_path_kept_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("a\nx\n")
    table = read_table("~/t.csv")
    assert (table.path, table.texts("a")) == (Path("~/t.csv"), ["x"])


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_line_endings_byte_order_mark_and_line_numbers(tmp_path: Path, bom: str, end: str) -> None:
    table = table_of(tmp_path, "t.csv", bom + end.join(["q,a", f'"one{end}two",x', "", "three,y"]))
    assert list(table.frame.columns) == ["q", "a"]
    assert table.texts("q") == [f"one{end}two", "three"]
    assert list(table.lines) == [2, 5]
    assert (table.places([0]), table.places([0, 1])) == ("line 2", "lines 2, 5")


def test_csv_words_stay_text_and_empty_cells_are_missing(tmp_path: Path) -> None:
    words = ["None", "NA", "null", "nan", "NaN", "1", "1.0", "True", "007", " "]
    table = table_of(tmp_path, "t.csv", "a,b\n" + "".join(f"{word},x\n" for word in words) + ',y\n"",z\n')
    assert table.texts("a") == [*words, None, None]
    assert table.rows(range(len(table)))["a"].tolist() == [*words, None, None]


def test_csv_keeps_nul_and_reads_long_cells_and_restores_the_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit(limit := 1000)
    table = table_of(tmp_path, "t.csv", 'a,b\nx\x00y,"' + "é" * 200_000 + '"\n')
    assert table.texts("a") == ["x\x00y"]
    assert table.texts("b") == ["é" * 200_000]
    assert csv.field_size_limit() == limit
    data_faults(tmp_path, "broken.csv", 'a\n"x')
    assert csv.field_size_limit(before) == limit


def test_csv_names_every_fault_of_header_and_rows_at_once(tmp_path: Path) -> None:
    rows = ["1,2,3,4", "1", "1,2,3", "1,2,3,4,5", "1,2,3,4", "1,2", "1,2,3,4,5,6", "1,2,3"]
    empty, twice, ragged = data_faults(tmp_path, "t.csv", "a,,a,d\n" + "\n".join(rows))
    assert "line 1: column 2 without a name" in empty
    assert "index=False" in empty
    assert "line 1: column name 'a' stands twice" in twice
    assert "names 4 columns, but lines 3, 4, 5, 7, 8 and 1 more: 1, 3, 5, 2, 6 cells" in ragged
    assert "double quotes" in ragged


@pytest.mark.parametrize("column", ["a", "b"])
def test_csv_broken_quotes_name_the_line_where_the_row_starts(tmp_path: Path, column: str) -> None:
    (fault,) = data_faults(tmp_path, "t.csv", 'a,b\n1,2\n"never,closed\n3,4\n')
    assert "line 3: a quote opened here is never closed" in fault
    (fault,) = data_faults(tmp_path, "t.csv", 'a,b\n1,"x\ny"\n"say "hi"",4\n')
    assert "line 4: broken quoting" in fault
    assert "Double the quotes" in fault


def test_csv_that_is_not_utf8(tmp_path: Path) -> None:
    (fault,) = data_faults(tmp_path, "t.csv", b"\xef\xbb\xbfa,b\nx,caf\xe9\n")
    assert "byte 0xe9 at offset 12, line 2" in fault
    assert "Save the file as UTF-8" in fault
    assert "0xff at offset 0" in data_faults(tmp_path, "u.csv", "a,b\nx,y\n".encode("utf-16"))[0]


@pytest.mark.parametrize(
    ("content", "reason"), [("", "is empty"), ("\n\n", "is empty"), ("\ufeff", "is empty"), ("a,b\n", "has no rows")]
)
def test_csv_without_rows(tmp_path: Path, content: str, reason: str) -> None:
    assert reason in data_faults(tmp_path, "t.csv", content)[0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.booleans(),
)
def test_csv_reads_back_what_python_wrote_and_equals_parquet(
    rows: list[tuple[str, str]], end: str, quoting: int, bom: bool
) -> None:
    buffer = io.StringIO(newline="")
    # with "\n" as line end, Python 3.11 leaves a lone "\r" unquoted
    quoting = csv.QUOTE_ALL if end == "\n" else quoting
    csv.writer(buffer, lineterminator=end, quoting=quoting).writerows([("a", "b"), *rows])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from_csv = table_of(folder, "t.csv", ("\ufeff" if bom else "") + buffer.getvalue())
        pq.write_table(pa.table({"a": [row[0] for row in rows], "b": [row[1] for row in rows]}), folder / "t.pq")
        lines = [json.dumps({"a": a, "b": b}) + "\n" for a, b in rows]
        others = [read_table(folder / "t.pq"), table_of(folder, "t.jsonl", "".join(lines))]
    for place, column in enumerate("ab"):
        expected = [row[place] or None for row in rows]
        assert from_csv.texts(column) == expected
        assert [other.texts(column) for other in others] == [expected, expected]


def test_parquet_cells_read_as_they_stand(tmp_path: Path) -> None:
    columns = {
        "int": pa.array([1, None, 2**60 + 1]),
        "float": pa.array([1.0, None, 0.1], pa.float32()),
        "nan": pa.array([float("nan"), 2.5, float("inf")]),
        "bool": pa.array([True, None, False]),
        "text": pa.array(["None", None, ""]),
        "word": pa.array(["x", None, "x"]).dictionary_encode(),
        "day": pa.array([date(2020, 1, 2), None, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert {name: table.texts(name) for name in columns} == {
        "int": ["1", None, str(2**60 + 1)],
        "float": ["1.0", None, "0.1"],
        "nan": [None, "2.5", "inf"],
        "bool": ["True", None, "False"],
        "text": ["None", None, None],
        "word": ["x", None, "x"],
        "day": ["2020-01-02", None, None],
    }
    assert table.frame["float"].dtype == "float32"
    assert table.cells("int") == [1, None, 2**60 + 1]
    assert table.places([0, 2]) == "rows 1, 3"


def test_parquet_keeps_a_stored_index_as_a_column(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["u", "v"], "a": [1, 2]}).set_index("id").to_parquet(tmp_path / "t.pq")
    assert read_table(tmp_path / "t.pq").texts("id") == ["u", "v"]


def test_parquet_that_is_not_whole(tmp_path: Path) -> None:
    pd.DataFrame({"a": [str(number) for number in range(5000)]}).to_parquet(tmp_path / "good.pq")
    whole = (tmp_path / "good.pq").read_bytes()
    middle = whole[:4] + bytes(200) + whole[204:]
    for content in (whole[: len(whole) // 2], whole[:-3], b"", b"a,b\n1,2\n", middle):
        (fault,) = data_faults(tmp_path, "bad.pq", content)
        assert f"dataset.train_dataframe={tmp_path / 'bad.pq'} is truncated or not a Parquet file" in fault
        assert "download it again" in fault


def test_parquet_with_one_name_twice_and_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "t.pq")
    with pytest.raises(DataError, match="column name 'a' stands twice"):
        read_table(tmp_path / "t.pq")
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "t.pq")
    with pytest.raises(DataError, match="has no rows"):
        read_table(tmp_path / "t.pq")


def test_json_lines_keep_types_and_read_as_they_are_written(tmp_path: Path) -> None:
    lines = [
        '{"a": 1, "b": true}',
        "",
        '{"a": 0.10, "c": "x\u2028y"}',
        '{"a": 1e3, "b": false, "c": null}',
        '{"a": NaN}',
    ]
    table = table_of(tmp_path, "t.jsonl", "\ufeff" + "\r\n".join(lines))
    assert table.texts("a") == ["1", "0.10", "1e3", None]
    assert table.texts("b") == ["true", None, "false", None]
    assert table.texts("c") == [None, "x\u2028y", None, None]
    assert list(table.lines) == [1, 3, 4, 5]
    assert table_of(tmp_path, "mac.jsonl", "\r".join(lines)).texts("c") == table.texts("c")
    assert table.cells("a")[:3] == [1, 0.1, 1000.0]
    assert pickle.loads(pickle.dumps(table)).texts("a") == table.texts("a")


def test_json_lines_faults_name_their_lines(tmp_path: Path) -> None:
    lines = ['{"a": 1}', '{"a": ', "[1]", '{"a": "\\ud83d"}', "[" * 100_000, "oops", "oops", "oops"]
    faults = data_faults(tmp_path, "t.jsonl", "\n".join(lines))
    assert [fault.split(", line ")[1].split(":")[0] for fault in faults[:5]] == ["2", "3", "4", "5", "6"]
    assert "no object but list" in faults[1]
    assert "surrogates" in faults[2]
    assert "one whole json object" in faults[0]
    assert "2 more lines are broken" in faults[5]
    assert len(faults) == 6
    assert "is not UTF-8" in data_faults(tmp_path, "t.jsonl", b'{"a": "\xe9"}')[0]
    assert "has no rows" in data_faults(tmp_path, "t.jsonl", "\n \n")[0]


def test_nested_cells_are_refused_where_text_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"a": cell, "ok": "x"}) for cell in ["x", [1], {}, "y", [], [], [], []]]
    table = table_of(tmp_path, "t.jsonl", "\n".join(lines))
    assert table.texts("ok") == ["x"] * 8
    with pytest.raises(
        DataError, match=r"t\.jsonl: column 'a' .*lines 2, 3, 5, 6, 7 and 1 more.*Write these cells as text"
    ):
        table.texts("a")
    pq.write_table(pa.table({"a": [[1], None], "b": [b"x", None]}), tmp_path / "t.pq")
    for column in "ab":
        with pytest.raises(DataError, match=rf"column '{column}'.*row 1\)"):
            read_table(tmp_path / "t.pq").texts(column)


def test_absent_columns_are_all_named_with_the_nearest(tmp_path: Path) -> None:
    table = table_of(tmp_path, "t.csv", "PROMPT,answer\nx,y\n")
    require_columns(table, {"dataset.answer_column": "answer", "dataset.system_column": None})
    wanted = {
        "dataset.prompt_column": ["prompt", "answer"],
        "dataset.answer_column": "answr",
        "dataset.id_column": "zz",
        "dataset.system_column": " Prompt",
    }
    with pytest.raises(DataError) as caught:
        require_columns(table, wanted)
    prompt, answer, identity, system = caught.value.faults
    assert "dataset.prompt_column='prompt' is not a column of" in prompt
    assert "it has 'PROMPT', 'answer'. Did you mean 'PROMPT'? Set dataset.prompt_column to one of them." in prompt
    assert "Did you mean 'answer'?" in answer
    assert "Did you mean" not in identity
    assert "Did you mean 'PROMPT'?" in system
    # N35: a validation table may lack a column, so absence alone is no error
    assert absent_columns(table, {"dataset.system_column": "system"}) == [("dataset.system_column", "system")]


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("text;label", "semicolons"),
        ('"text";"label"', "semicolons"),
        ("text\tlabel", "tabs"),
        ("a|b|c;d", "bars"),
        ('\n"a, b";"c"', "semicolons"),
    ],
)
def test_csv_with_another_separator_says_so(tmp_path: Path, header: str, what: str) -> None:
    (fault,) = data_faults(tmp_path, "t.csv", f'{header}\n"one, two";"x"\n')
    assert f"the header holds no comma but {what}" in fault
    separator = {"semicolons": ";", "tabs": "\t", "bars": "|"}[what]
    assert f"sep={separator!r}" in fault  # repr, so that a tab can be pasted


def test_csv_names_may_hold_separators(tmp_path: Path) -> None:
    assert list(table_of(tmp_path, "t.csv", '"a;b"\nx\n').frame.columns) == ["a;b"]
    assert list(table_of(tmp_path, "t.csv", '"a;\nb"\nx\n').frame.columns) == ["a;\nb"]
    assert list(table_of(tmp_path, "t.csv", "a;b,c\nx,y\n").frame.columns) == ["a;b", "c"]


def test_cure_for_another_separator_works(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('text;label\n"one, two";x\n')
    pd.read_csv(tmp_path / "t.csv", sep=";").to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv").texts("text") == ["one, two"]


def test_json_lines_refuse_a_key_that_stands_twice(tmp_path: Path) -> None:
    (fault,) = data_faults(tmp_path, "t.jsonl", '{"a": 1}\n{"b": {"a": 1, "a": 2}}')
    assert "line 2: the key 'a' stands twice" in fault


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    broken = pa.array([b"ok", b"caf\xe9"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"a": broken}), tmp_path / "t.pq")
    with pytest.raises(DataError, match="Invalid UTF8"):
        read_table(tmp_path / "t.pq")


def test_the_hash_is_of_the_bytes_that_were_read(tmp_path: Path) -> None:
    content = b"a\nx\n"
    table = table_of(tmp_path, "t.csv", content)
    (tmp_path / "t.csv").write_text("a\nchanged\n")
    assert table.sha256 == hashlib.sha256(content).hexdigest()
    assert [(file.path, file.kind) for file in table.files] == [(tmp_path / "t.csv", "csv")]


def test_places_name_each_file_and_a_place_once() -> None:
    files = (File(Path("a.csv"), "csv", "1"), File(Path("n.md"), "text", "2"), File(Path("b.pq"), "parquet", "3"))
    frame = pd.DataFrame({"x": range(8)})
    table = Table(Path("all"), frame, [2, 2, 3, 1, 1, 2, 3, 4], files, [0, 0, 0, 1, 2, 2, 2, 2])
    assert table.places([0, 1]) == "a.csv line 2"
    assert table.places([0, 1, 2, 3, 4]) == "a.csv lines 2, 3, n.md, b.pq row 1"
    assert table.places(range(8)) == "a.csv lines 2, 3, n.md, b.pq rows 1, 2 and 2 more"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["t.csv", "t.jsonl", "t.pq", "t.txt"]),
    st.binary(max_size=60)
    | st.text(st.sampled_from('ab,;"\n\r\t|{}[]:1.e\\u\x00é\ufeff'), max_size=60).map(str.encode),
)
def test_any_bytes_are_a_table_or_a_fault_of_the_user(name: str, content: bytes) -> None:
    _readable_or_refused(name, content)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_parquet_is_a_table_or_a_fault_of_the_user(data: st.DataObject) -> None:
    content = bytearray(PARQUET)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([None, -1, len(content) // 2]))
    _readable_or_refused("t.pq", bytes(content[:end]))


def _readable_or_refused(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = table_of(Path(folder), name, content)
        except DataError:
            return
    assert len(table) == len(table.lines) == len(table.origin) > 0
    for column in table.frame.columns:
        with suppress(DataError):  # nested cells
            assert len(table.texts(column)) == len(table)
    assert table.places(range(len(table)))
    with suppress(DataError):
        detect(table)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    table_of(tmp_path, "t.csv", "a\nx\n")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.pq")
    read_table(tmp_path / "t.pq")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.pq"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tables are not here")
@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("sft_alpaca_en.csv", 999, "instruction input output"),
        ("dpo_pairs_en.csv", 194, "system instruction chosen rejected"),
        ("dpo_chains_en.parquet", 563, "id parent_id system instruction chosen rejected"),
        ("sms_spam.csv", 5574, "text spam"),
        ("banking_intents.csv", 4000, "text intent card transfer top payment cash"),
        ("sts_dev.csv", 1500, "sentence1 sentence2 score"),
    ],
)
def test_real_tables(name: str, rows: int, columns: str) -> None:
    table = read_table(REAL / name)
    assert len(table) == rows
    assert list(table.frame.columns) == columns.split()
    if name.endswith(".csv"):
        expected = pd.read_csv(REAL / name, dtype=str, keep_default_na=False)
        for column in expected:
            assert table.texts(column) == [cell or None for cell in expected[column]]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_keys_are_the_cells(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame({"id": ["a", "", None, "b"], "number": [1, 2, 3, 4]})
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    table = read_table(path)
    assert table.keys("id").isna().tolist() == [False, True, True, False]
    assert table.keys("id").dropna().tolist() == ["a", "b"]
    assert table.keys("number").tolist() == table.cells("number") == [1, 2, 3, 4]
