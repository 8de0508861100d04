import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from compt_fast.tasks.formats import FORMATS, find_split, read_columns
from compt_fast.utils.errors import InputError
from tests.helpers.hub_rows import write_rows

ROWS = [
    {"text": 'He said "no", and left.', "label": "a"},
    {"text": "Zoë's naïve café — ok", "label": "b"},
]


def read(path: Path) -> list[dict[str, object]]:
    columns = read_columns([path])
    return [{name: values[k] for name, values in columns.values.items()} for k in range(columns.size)]


@pytest.mark.parametrize("form", FORMATS)
def test_formats_give_the_same_rows(form: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"train.{form}", ROWS)
    assert read(path) == ROWS
    columns = read_columns([path])
    assert list(columns.values["text"]) == [row["text"] for row in ROWS]
    first_line = 1 if form in ("jsonl", "parquet") else 2
    assert columns.where(0) == f"{path}:{first_line}"
    assert columns.where(1) == f"{path}:{first_line + 1}"


# Without the line ends and tabs that TSV cannot hold.
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\t"), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
@pytest.mark.parametrize("form", FORMATS)
def test_any_text_survives(form: str, rows: list[tuple[str, str]], tmp_path: Path) -> None:
    written = [{"text": text, "label": label} for text, label in rows]
    assert read(write_rows(tmp_path / f"train.{form}", written)) == written


def test_places_count_lines_not_rows(tmp_path: Path) -> None:
    quoted = tmp_path / "a.csv"
    quoted.write_text('text,label\n"two\nlines",0\n\nplain,1\n')
    columns = read_columns([quoted])
    assert list(columns.values["text"]) == ["two\nlines", "plain"]
    assert [columns.where(k) for k in (0, 1)] == [f"{quoted}:2", f"{quoted}:5"]
    gaps = tmp_path / "a.jsonl"
    gaps.write_text('{"text": "a\u2028b", "label": 0}\n\n{"text": "c", "label": 1}\n')
    columns = read_columns([gaps])
    assert [columns.where(k) for k in (0, 1)] == [f"{gaps}:1", f"{gaps}:3"]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"unbalanced\t0\nplain\t1\n')
    assert read(path) == [{"text": '"unbalanced', "label": "0"}, {"text": "plain", "label": "1"}]


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nplain,1\r\n")
    assert read(path) == [{"text": "plain", "label": "1"}]


def shards(folder: Path, sizes: list[int], of: int | None = None) -> list[Path]:
    paths = []
    for k, size in enumerate(sizes):
        name = f"train-{k:05}-of-{of or len(sizes):05}.parquet"
        paths.append(write_rows(folder / name, [{"text": f"{k}.{i}"} for i in range(size)]))
    return paths


def test_shards_follow_one_another(tmp_path: Path) -> None:
    paths = shards(tmp_path, [2, 1, 3])
    assert find_split(tmp_path, "train") == paths
    columns = read_columns(paths)
    assert list(columns.values["text"]) == ["0.0", "0.1", "1.0", "2.0", "2.1", "2.2"]
    assert [columns.where(k) for k in (1, 2, 5)] == [
        f"{paths[0]}:2",
        f"{paths[1]}:1",
        f"{paths[2]}:3",
    ]


def test_missing_shards(tmp_path: Path) -> None:
    shards(tmp_path, [1, 1], of=3)
    with pytest.raises(InputError, match="2 of 3 shards of 'train' are there"):
        find_split(tmp_path, "train")


def test_shards_that_differ(tmp_path: Path) -> None:
    paths = shards(tmp_path, [1, 1])
    write_rows(paths[1], [{"words": "a"}])
    with pytest.raises(InputError, match="00001-of-00002.parquet: its columns differ"):
        read_columns(paths)


def test_a_split_is_no_prefix_of_another(tmp_path: Path) -> None:
    write_rows(tmp_path / "validation_matched-00000-of-00001.parquet", ROWS)
    assert find_split(tmp_path, "validation") == []
    assert len(find_split(tmp_path, "validation_matched")) == 1


def test_two_formats_of_one_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", ROWS)
    write_rows(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(InputError, match=r"train.jsonl, train.csv all hold the split 'train'"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "a", "text": "b"}\n', ":2: .*the key 'text' stands"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', ":2: not well-formed json.*every line must be one JSON object"),
        ("a.jsonl", b'[{"text": "a"}]\n', ":1: a JSON list; every line must be one object"),
        ("a.jsonl", b"\n\n", "a.jsonl: no rows"),
        ("a.jsonl", '{"text": "a"}\n{"text": "é"}'.encode("latin-1"), ":2: not UTF-8 .*0xe9"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), ":1: not UTF-8"),
        ("a.csv", "text,label\na,0\né,1\n".encode("latin-1"), ":3: not UTF-8"),
        ("a.csv", b"text,label\na,\0\n", ":2: a NUL byte"),
        ("a.csv", ",".join(map(str, range(60_000))).encode(), "a.csv:1: 60,000 columns; up to 2,000 are read"),
        ("a.jsonl", b"".join(b'{"%d": 1}\n' % i for i in range(3000)), "a.jsonl: 3,000 columns; up to 2,000 are read"),
        ("a.jsonl", b'{"a": ' + b"[" * 50_000, ":1: nests more than 32 deep"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ":1: not well-formed json: Exceeds the limit"),
        ("a.csv", b"", "a.csv: empty; the first line must name the columns"),
        ("a.csv", b"text,label\n", "a.csv: no rows"),
        ("a.csv", b"text,text\na,b\n", ":1: two columns are called 'text'"),
        ("a.csv", b"text,label\na,0\nb\n", ":3: 1 cells where the header names 2"),
        ("a.csv", b'text,label\na,0\n"b,1\n', ":3: not CSV"),
        ("a.tsv", b"text\tlabel\na\t0\nb\tc\t1\n", ":3: 3 cells where the header names 2"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not a whole Parquet file"),
        ("a.parquet", b"", "a.parquet: not a whole Parquet file"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.txt", b"text\n", "rows are read from files of jsonl, csv, tsv, parquet"),
    ],
)
def test_bad_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_columns([path])
    assert str(path) in str(caught.value)


def test_truncated_parquet(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.parquet", ROWS * 200)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"train.parquet: not a whole Parquet file"):
        read_columns([path])


def test_parquet_with_a_damaged_middle(tmp_path: Path) -> None:
    rows = [{"text": json.dumps(k**7)} for k in range(2000)]
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path, use_dictionary=False, compression="gzip")
    data = bytearray(path.read_bytes())
    data[500:900] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a whole Parquet file"):
        read_columns([path])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.csv: cannot be read \(No such file"):
        read_columns([tmp_path / "gone.csv"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "text;label\na, b;0\n",
            r"a.csv:1: one column, 'text;label': .* by semicolons \(';'\), and .* by commas",
        ),
        ("a.csv", "text\tlabel\na\t0\n", "separated by tabs .* save it with commas, or rename it to a.tsv"),
        ("a.csv", "text|label\na|0\n", "separated by bars"),
        ("a.tsv", "text,label\na,0\n", "separated by commas .* save it with tabs, or rename it to a.csv"),
        ("a.tsv", "text;label\na;0\n", "separated by semicolons .* save it with tabs$"),
        ("a.json", "[]", "a.json: rows are read from files of .*; one JSON object a line makes it a.jsonl"),
    ],
)
def test_what_separates_cells_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_columns([tmp_path / name])
