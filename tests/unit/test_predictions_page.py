"""What a page has of the predictions: roles, conversations, cuts, rows to look at first, and hostile text as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report_runs import HOSTILE, LONG
from tests.unit.prediction_folders import own, run_folder, table_of

from leyden.report import prediction_figures, predictions
from leyden.report.highlights import ROWS, highlights
from leyden.report.page import Section, render_page
from leyden.report.prediction_cuts import LIMITS, page_data
from leyden.report.prediction_fields import fields_of, likelier
from leyden.report.run_files import RunFiles


def section_of(run: RunFiles) -> Section:
    found = predictions.section(run)
    assert found is not None
    return found


def data_in(body: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="predictions-data">(.*?)</script>', body, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def cells(data: dict[str, Any], title: str) -> list[Any]:
    found: list[Any] = next(one["cells"] for one in data["fields"] if one["title"] == title)
    return found


def test_roles_are_found_where_our_columns_have_the_same_names(tmp_path: Path) -> None:
    """A user's `prediction` is called `table_prediction` in the table, so that ours keeps its name."""
    columns = {
        "table_target": ["mine"], "table_prediction": ["asked"], "prompt_text": ["shown"], "target": ["mine"],
        "prediction": ["ours"], "loss": [1.0],
    }  # fmt: skip
    run = run_folder(tmp_path, columns, prompt_column="prediction", answer_column="target")
    predictions = table_of(run)
    assert predictions.role("prompt") == ["table_prediction"]
    assert predictions.prompts == ["asked"]
    data = data_in(section_of(run).body)
    assert cells(data, "Prompt") == ["asked"]
    assert cells(data, "Prediction") == ["ours"]


@pytest.mark.parametrize(("status", "said"), [("running", True), ("saved", False), ("done", False)])
def test_predictions_of_an_earlier_end_of_the_run_are_called_so(tmp_path: Path, status: str, said: bool) -> None:
    run_folder(tmp_path, {**own(2), "prediction": ["a", "b"], "loss": [1.0, 2.0]})
    (tmp_path / "manifest.json").write_text(json.dumps({"status": status}))
    lead = section_of(RunFiles.read(tmp_path)).lead
    assert ("as it was when the run was gone on with" in lead) == said


def test_several_prompt_columns_are_joined(tmp_path: Path) -> None:
    columns = {"p": ["one"], "q": ["two"], "prompt_text": [""], "target": ["t"], "loss": [1.0]}
    run = run_folder(tmp_path, columns, prompt_column=["p", "q"], prompt_column_separator="\\n--\\n")
    assert table_of(run).prompts == ["one\n--\ntwo"]


def test_conversations_are_followed_to_their_beginning(tmp_path: Path) -> None:
    """Row 4 answers itself in a circle; row 3 answers a row that is not there."""
    columns = {
        "id": [1, 2, 3, 4, 5], "parent": [None, 1, 2, 77, 5], **own(5), "target": list("abcde"), "loss": [1.0] * 5,
    }  # fmt: skip
    run = run_folder(tmp_path, columns, id_column="id", parent_id_column="parent")
    assert table_of(run).earlier == [[], [0], [0, 1], [], []]  # a column with a gap holds 1.0, which is 1


def test_ids_as_texts_chain(tmp_path: Path) -> None:
    columns = {
        "id": ["1", "2", "3", "4", "5"], "parent": [None, "1", "2", "77", "5"], "p": list("vwxyz"),
        "sys": ["S", *[None] * 4],
        "prompt_text": ["shown"] * 5, "target": list("abcde"), "loss": [None, None, 1.0, 1.0, 1.0],
    }  # fmt: skip
    run = run_folder(tmp_path, columns, id_column="id", parent_id_column="parent", system_column="sys")
    assert table_of(run).earlier == [[], [0], [0, 1], [], []]
    data = data_in(section_of(run).body)
    assert data["earlier"][2] == [0, 1]
    assert data["fields"][data["conversation"]["system"]]["cells"][0] == "S"


def test_lists_of_messages_are_known_by_the_columns_they_became(tmp_path: Path) -> None:
    """The settings name the lists, which are not in the table any more; what they were read into is."""
    columns = {
        "system": ["S", ""], "prompt": ["one", "two"], "answer": ["1", "2"], "id": ["1-1", "1-2"],
        "parent_id": ["", "1-1"], "prompt_text": ["", "shown"], "target": ["1", "2"], "loss": [None, 1.0],
    }  # fmt: skip
    dataset = {"format": "messages", "prompt_column": "instruction", "id_column": None, "messages_column": "messages"}
    run = run_folder(tmp_path, columns, **dataset)
    predictions = table_of(run)
    assert (predictions.prompts, predictions.earlier) == (["one", "two"], [[], [0]])
    data = data_in(section_of(run).body)
    assert data["fields"][data["conversation"]["system"]]["cells"] == ["S", ""]
    assert [data["fields"][place]["title"] for place in data["others"]] == ["id", "parent_id"]


def test_rows_of_before_stand_beside_the_same_rows(tmp_path: Path) -> None:
    columns = {**own(3), "target": list("abc"), "prediction": ["a", "x", "c"], "loss": [1.0, 2.0, 3.0]}
    before = {"prediction": ["q", "x", None], "loss": [4.0, 2.5, None]}
    data = data_in(section_of(run_folder(tmp_path, columns, before)).body)
    assert cells(data, "Loss before") == [4.0, 2.5, None]
    assert cells(data, "Change of loss") == [-3.0, -0.5, None]
    assert cells(data, "Prediction before training") == ["q", "x", None]


def test_a_table_of_before_of_other_rows_is_not_used(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {**own(3), "target": list("abc"), "loss": [1.0, 2.0, 3.0]}, {"loss": [4.0, 2.5]})
    assert table_of(run).before is None
    assert "before.parquet has 2 rows, so they are compared with none before training" in section_of(run).lead


def test_the_rows_to_look_at_first(tmp_path: Path) -> None:
    """By loss: 4, 0, 3 are best and 2, 6, 1 worst; row 5 was not scored. The judge ranks the other way round."""
    loss = [0.2, 5.0, 9.0, 0.3, 0.1, None, 6.0, 1.0]
    score = [None if cell is None else cell / 10 for cell in loss]
    columns = {**own(8), "target": list("abcdefgh"), "loss": loss, "score_mine": score}
    before = {"loss": [0.2, 5.1, 1.0, 3.0, 0.1, None, 6.0, 3.0], "score_mine": score}
    metric = {"mine": {"direction": "max"}}
    predictions = table_of(run_folder(tmp_path, columns, before, metric=metric))
    by_loss, by_score = highlights(predictions, "max")
    assert (by_loss.best, by_loss.worst, by_loss.changed) == ((4, 0, 3), (2, 6, 1), (2, 3, 7))
    assert (by_score.best, by_score.worst, by_score.changed) == ((2, 6, 1), (4, 0, 3), ())
    assert ROWS == 3
    assert len(highlights(predictions)) == 1  # nobody said which way is better


def test_measures_of_one_order_are_told_together(tmp_path: Path) -> None:
    columns = {**own(4), "target": list("abcd"), "loss": [1.0, 2, 3, 4], "score_perplexity": [2.0, 4, 8, 16]}
    (found,) = highlights(table_of(run_folder(tmp_path, columns)))
    assert found.measures == ("loss", "perplexity")
    assert not {*found.best} & {*found.worst}


def test_which_answer_of_a_pair_is_likelier(tmp_path: Path) -> None:
    logps = {"chosen_logp": [-1.0, -3, -2, None], "rejected_logp": [-2.0, -1, -2, -1]}
    columns = {
        **own(4), "target": list("abcd"), "loss": [0.1, 0.9, 0.7, None], **logps,
        "reward_margin": [1.0, -2.0, 0.0, None],
    }  # fmt: skip
    before = {"chosen_logp": [-9.0, -1, -2, None], "rejected_logp": [-2.0, -3, -2, -1]}
    run = run_folder(tmp_path, columns, before)
    predictions = table_of(run)
    assert likelier(predictions) == ["chosen", "rejected", "tie", None]
    assert likelier(predictions, before=True) == ["rejected", "chosen", "tie", None]
    section = prediction_figures.section(run)
    assert section is not None
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section.body))
    assert "likelier one in 1 of 3 pairs" in text
    assert "higher reward in 1 of 3; the mean margin is -0.3333" in text


def test_long_cells_are_cut_and_their_length_is_told(tmp_path: Path) -> None:
    columns = {**own(2), "target": [LONG, "short"], "prediction": ["x", "y"], "loss": [1.0, 2.0]}
    section = section_of(run_folder(tmp_path, columns))
    data = data_in(section.body)
    target = next(one for one in data["fields"] if one["title"] == "Target")
    assert (len(target["cells"][0]), target["cut"]) == (LIMITS[0], {"0": len(LONG)})
    assert "1 cells are longer than 20,000 characters" in section.body
    assert "predictions.parquet" in section.body


@pytest.mark.parametrize(("length", "limit"), [(100, LIMITS[0]), (3_000, 1_000), (40_000, 1_000)])
def test_the_limit_follows_from_the_room(tmp_path: Path, length: int, limit: int) -> None:
    columns = {**own(30), "target": ["é" * length] * 30, "loss": [1.0] * 30}
    predictions = table_of(run_folder(tmp_path, columns))
    data = page_data(fields_of(predictions), predictions.earlier, room=100_000)
    assert data["limit"] == limit
    assert len(json.dumps(data["fields"], ensure_ascii=False).encode()) < 110_000
    assert len(data["rows"]) == 30


def test_of_too_many_rows_some_are_left_out_but_not_the_first_to_look_at(tmp_path: Path) -> None:
    rows = 2_000
    parents = [str(row - 1) if row % 2 else None for row in range(rows)]
    columns = {
        "id": [str(row) for row in range(rows)], "parent": parents,
        **own(rows), "target": ["x" * 200] * rows, "loss": [1.0] * rows,
    }  # fmt: skip
    run = run_folder(tmp_path, columns, id_column="id", parent_id_column="parent")
    predictions = table_of(run)
    data = page_data(fields_of(predictions), predictions.earlier, [1_999], room=100_000)
    assert (data["limit"], data["total"]) == (LIMITS[-1], rows)
    assert data["rows"][-2:] == [1_999, 2_000]  # the wanted row and the one it answers, counted from 1
    assert data["rows"][:-2] == list(range(1, len(data["rows"]) - 1))
    assert len(json.dumps(data["fields"])) < 105_000


def test_yes_or_no_and_several_labels_have_figures_too(tmp_path: Path) -> None:
    yes = {
        **own(4), "target": ["no", "yes", "yes", "no"], "prediction": ["no", "yes", "no", "no"],
        "probability_yes": [0.1, 0.9, 0.4, 0.2], "loss": [0.1, 0.1, 0.9, 0.2],
    }  # fmt: skip
    several = {
        **own(3), "target_late": [1, 0, 1], "target_upset": [0, 0, 1], "prediction_late": [1, 0, 0],
        "prediction_upset": [0, 0, 1], "probability_late": [0.9, 0.2, 0.4], "probability_upset": [0.1, 0.2, 0.8],
        "loss": [0.1, 0.2, 0.3],
    }  # fmt: skip
    runs = [run_folder(tmp_path / name, table) for name, table in (("a", yes), ("b", several))]
    one, two = map(prediction_figures.section, runs)
    assert one is not None
    assert two is not None
    assert re.search(r"<b>75 %</b> of 4 rows right", one.body)
    assert "the probability of “yes”" in one.body
    assert re.findall(r'<th scope="row"><bdi>(\w+)</bdi></th><td class="number', one.body)[:2] == ["no", "yes"]
    assert "83.33 %</b> of the labels of 3 rows right" in two.body
    assert "Confusion" not in two.body
    data = data_in(section_of(runs[1]).body)
    assert cells(data, "Target") == ["late", "none", "late, upset"]
    assert cells(data, "Prediction") == ["late", "none", "upset"]


def test_of_many_classes_the_most_frequent_mistakes_are_told(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(30)]
    columns = {
        **own(31), "target": [*names, "class 3"], "prediction": [*names[:3], "class 7", *names[4:], "class 7"],
        **{f"probability_{name}": [0.5] * 31 for name in names}, "loss": [1.0] * 31,
    }  # fmt: skip
    section = prediction_figures.section(run_folder(tmp_path, columns))
    assert section is not None
    assert re.search(
        r"<bdi>class 3</bdi></td><td><bdi>class 7</bdi></td><td class=\"number\">2</td></tr>\s*</tbody>", section.body
    )


class Reader(HTMLParser):
    """Every tag of a page, and its texts outside scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("kind", ["text", "pairs", "classes", "labels", "numbers"])
def test_hostile_text_is_text_everywhere(tmp_path: Path, kind: str) -> None:
    """In cells, in names of columns, of classes and of metrics; a planted element would be one tag more."""
    texts = [*HOSTILE, "<!-- open", "\ud800 half"]
    rows = len(texts)
    mean = "</script><img src=x onerror=alert(1)>"
    numbers = [float(row) for row in range(rows)]
    columns: dict[str, Any] = {"p": texts, mean: texts, "prompt_text": texts, "loss": numbers, f"note_{mean}": texts}
    more: dict[str, dict[str, Any]] = {
        "text": {"target": texts, "prediction": texts[::-1], f"score_{mean}": numbers},
        "pairs": {"target": texts, "prediction": texts, "chosen_logp": numbers, "rejected_logp": numbers[::-1],
                  "reward_margin": numbers},
        "classes": {"target": texts, "prediction": texts} | {f"probability_{one}": [0.1] * rows for one in texts[:-1]},
        "labels": {f"{start}_{mean}": [1, 0] * (rows // 2) for start in ("target", "prediction", "probability")},
        "numbers": {f"{start}_{mean}": numbers for start in ("target", "prediction")},
    }  # fmt: skip
    table = {**columns, **more[kind]}
    run = RunFiles(tmp_path / "run", {"dataset": {"prompt_column": "p", "answer_column": mean, "system_column": mean},
                                      "metric": {mean: {"direction": "min"}}},
                   predictions=_frame(table), before=_frame(more[kind] | {"loss": numbers[::-1]}))  # fmt: skip
    sections = [one for one in (prediction_figures.section(run), predictions.section(run)) if one is not None]
    assert len(sections) == (1 if kind == "text" else 2)
    page = render_page("run", sections)
    page.encode("utf-8")
    reader = Reader()
    reader.feed(page)
    assert "img" not in reader.tags
    assert all(one.get("nonce") or one.get("type") == "application/json" or "id" in one for one in reader.scripts)
    assert "<!--" not in page
    assert "\0" not in page
    said = "".join(reader.texts)
    assert "nul \u2400 and bell \u2407" in said
    assert "<script>window.planted = 1</script>" in said


def _frame(columns: dict[str, Any]) -> Any:
    import pandas as pd

    return pd.DataFrame({name: pd.Series(cells_, dtype=object if isinstance(cells_[0], str) else None)
                         for name, cells_ in columns.items()})  # fmt: skip
