"""Prompt files and data sets: every format, every way to be wrong."""

import builtins
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from excise.errors import PromptError
from excise.prompts import read
from excise.results import Prompt


def written(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


# ---------------------------------------------------------------- reading files
def test_txt_is_one_prompt_a_line_and_keeps_empty_ones(tmp_path):
    source = written(tmp_path / "p.txt", "\ufeffWhat is a — dash?\r\n\r\n  Zwei Wörter \n")
    assert [p.text for p in read(source)] == ["What is a — dash?", "", "Zwei Wörter"]


def test_jsonl_reads_every_field_and_conversations(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    lines = [
        {"prompt": "A?", "system": "S", "answer": "B", "topic": "t", "plain": "P", "other": 3},
        {"text": "line\u2028separator"},
        {"instruction": "Do it.", "answer": None},
        {"question": "Why?"},
        {"messages": turns},
        {"messages": turns, "system": "Mine."},
    ]
    source = written(tmp_path / "p.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert read(source) == (
        Prompt("A?", "S", "B", "t", "P"),
        Prompt("line\u2028separator"),
        Prompt("Do it."),
        Prompt("Why?"),
        Prompt("Hi", "Be brief."),
        Prompt("Hi", "Mine."),
    )


def test_csv_and_parquet_read_the_same(tmp_path):
    table = written(tmp_path / "p.csv", 'text,topic,other\n"a, ""quoted""",x,1\nb\n"two\nlines",,2\n')
    stored = pyarrow.table({"text": ['a, "quoted"', "b", "two\nlines"], "topic": ["x", None, None]})
    parquet.write_table(stored, tmp_path / "p.parquet")
    expected = (Prompt('a, "quoted"', topic="x"), Prompt("b"), Prompt("two\nlines"))
    assert read(table) == expected
    assert read(str(tmp_path / "p.parquet")) == expected


def test_a_column_is_named_by_argument_or_by_suffix(tmp_path):
    source = written(tmp_path / "p.csv", "prompt,goal\na,b\n")
    assert read(source)[0].text == "a"
    assert read(source, column="goal")[0].text == "b"
    assert read(f"{source}:goal")[0].text == "b"
    with pytest.raises(PromptError, match="one column"):
        read(f"{source}:goal", column="prompt")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.doc", "x", r"p\.doc: expected one of \.txt.*'\.doc'"),
        ("p.json", "{}", r"Did you mean '\.jsonl'"),
        ("p.txt", "", "empty file"),
        ("p.txt", "\n \n", "empty file"),
        ("p.csv", "text\n", r"found none \(0 empty\)"),
        ("p.txt", b"ok\ncaf\xe9\n", r"p\.txt:2: expected UTF-8, found byte 0xe9.*iconv"),
        ("p.txt", "x".encode("utf-16"), "UTF-16"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"p\.jsonl:2: expected one JSON object"),
        ("p.jsonl", '["a"]', r"p\.jsonl:1: expected one JSON object, found list"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl:1: expected one JSON object"),
        ("p.jsonl", '{"promt": "a"}', "found 'promt'. Did you mean 'promt'"),
        ("p.jsonl", '{"prompt": 3}', "expected text in 'prompt', found int"),
        ("p.jsonl", '{"prompt": "a", "topic": 3}', "expected text in 'topic'"),
        ("p.jsonl", '{"prompt": "\\ud800"}', "half a character"),
        ("p.jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}', "expected a user turn"),
        ("p.jsonl", '{"messages": ["a"]}', "expected turns like"),
        ("p.jsonl", '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "of type 'text' only"),
        ("p.csv", "text,topic\na,b,c\n", r"p\.csv:2: expected 2 cells"),
        ("p.csv", 'text\n"a"b\n', r"p\.csv:2: expected CSV"),
        ("p.csv", "Prompts;topic\na;b\n", "found 'Prompts;topic'"),
        ("p.parquet", "no parquet", "expected a parquet file"),
    ],
)
def test_unreadable_files_say_where_and_what_to_do(tmp_path, name, data, message):
    with pytest.raises(PromptError, match=message):
        read(written(tmp_path / name, data))


def test_missing_things_name_what_is_there(tmp_path):
    source = written(tmp_path / "p.csv", "goal,topic\na,b\n")
    with pytest.raises(PromptError, match=r"expected a column 'gaol', found 'goal', 'topic'. Did you mean 'goal'\?"):
        read(source, column="gaol")
    with pytest.raises(PromptError, match="Name the one that holds the prompts"):
        read(source)
    with pytest.raises(PromptError, match="expected no column"):
        read(written(tmp_path / "p.txt", "a"), column="text")
    with pytest.raises(PromptError, match="expected a file, found none"):
        read("nowhere/p.txt")
    with pytest.raises(PromptError, match="found neither"):
        read("nowhere")


# ---------------------------------------------------------------- data sets
@pytest.fixture
def hub(monkeypatch):
    """The hub, replaced by one data set; holds what was asked for."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_dict(
            {"text": ["a", "b"], "goal": ["c", "d"], "answer": [1, 2], "topic": ["x", "y"]}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("source", "asked", "first"),
    [
        ("owner/name", ("owner/name", "train"), "a"),
        ("owner/name:goal", ("owner/name", "train"), "c"),
        ("owner/name/test", ("owner/name", "test"), "a"),
        ("owner/name/train[:400]:goal", ("owner/name", "train[:400]"), "c"),
        ("owner/na.me-2/train[100:200]", ("owner/na.me-2", "train[100:200]"), "a"),
        ("owner/name/train[:10%]+test[-5:]:text", ("owner/name", "train[:10%]+test[-5:]"), "a"),
    ],
)
def test_hub_slices(hub, source, asked, first):
    found = read(source)
    assert hub == [asked]
    assert found[0] == Prompt(first, topic="x"), "an answer that is a class number is no answer"


def test_what_exists_on_disk_wins_over_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    read("owner/name")
    assert hub, "the folder of an owner is no data set"
    written(Path("owner/name.txt"), "local")
    assert read("owner/name.txt") == (Prompt("local"),)
    assert len(hub) == 1


def test_saved_data_sets_slice_as_on_the_hub(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"goal": [str(i) for i in range(10)]})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(str(tmp_path / "two"))
    for source, expected in (
        (f"{tmp_path}/one:goal", "0123456789"),
        (f"{tmp_path}/one/train[:3]:goal", "012"),
        (f"{tmp_path}/one/train[20%:40%]:goal", "23"),
        (f"{tmp_path}/two/test:goal", "012"),
        (f"{tmp_path}/two/train[-1:]+test[1:2]:goal", "91"),
        (f"{tmp_path}/two:goal", "0123456789"),
    ):
        assert "".join(p.text for p in read(source)) == expected, source
    with pytest.raises(PromptError, match=r"Unknown split \"dev\".*train"):
        read(f"{tmp_path}/two/dev[:3]:goal")
    with pytest.raises(PromptError, match=r"found none \(0 empty\)"):
        read(f"{tmp_path}/two/train[5:2]:goal")
    with pytest.raises(PromptError, match="expected a column"):
        read(f"{tmp_path}/two")


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(name, split):
        raise errors.pop()

    monkeypatch.setattr(datasets, "load_dataset", fail)
    errors: list[Exception] = [builtins.ConnectionError("Couldn't reach 'o/n' on the Hub")]
    with pytest.raises(PromptError, match=r"o/n/train: the data set cannot be reached .*Go online, or download"):
        read("o/n")
    errors = [datasets.exceptions.DatasetNotFoundError("no")]
    with pytest.raises(PromptError, match="expected a data set on the hub"):
        read("o/n")
    errors = [ValueError("Unknown split")]
    with pytest.raises(PromptError, match="expected a data set with that split"):
        read("o/n/dev")
