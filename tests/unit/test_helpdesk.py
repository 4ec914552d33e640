from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from itertools import combinations

import pytest

from leyden.settings.locations import table_path

Rows = list[dict[str, str]]
COLUMNS = [
    "id", "parent_id", "message", "good_reply", "poor_reply", "category", "refund", "defect", "late", "cancel", "upset",
    "urgency", "summary",
]  # fmt: skip
TAGS = COLUMNS[6:11]
TEXTS = ["message", "good_reply", "poor_reply", "summary"]
CATEGORIES = {"account", "advice", "billing", "delivery", "returns", "technical"}
ADDRESS = re.compile(r"https?:|www\.|\S@\S|\b[\w-]+\.(?:com|org|net|io|co|uk|eu|de|fr)\b|\+\d[\d ]{6,}")


@pytest.fixture(scope="module")
def rows() -> Rows:
    with table_path("embedded:helpdesk").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_table_is_large_enough_and_whole(rows: Rows) -> None:
    assert list(rows[0]) == COLUMNS
    assert len(rows) >= 400
    assert all(None not in row and None not in row.values() for row in rows)
    assert all(row[name] for row in rows for name in COLUMNS if name != "parent_id")


def test_ids_are_one_of_a_kind_and_parents_come_earlier(rows: Rows) -> None:
    place = {row["id"]: number for number, row in enumerate(rows)}
    assert len(place) == len(rows)
    for number, row in enumerate(rows):
        if row["parent_id"]:
            assert place[row["parent_id"]] < number


def test_at_least_a_hundred_rows_stand_in_threads(rows: Rows) -> None:
    parents = {row["parent_id"] for row in rows if row["parent_id"]}
    in_threads = [row for row in rows if row["parent_id"] or row["id"] in parents]
    assert len(in_threads) >= 100
    children = Counter(row["parent_id"] for row in rows if row["parent_id"])
    assert children.most_common(1)[0][1] > 1  # at least one thread branches
    parent_of = {row["id"]: row["parent_id"] for row in rows}
    assert any(
        parent_of[parent_of[parent_of[row["id"]]]] for row in rows if row["parent_id"] and parent_of[row["parent_id"]]
    )


def test_both_replies_are_equal_exactly_where_another_row_follows(rows: Rows) -> None:
    parents = {row["parent_id"] for row in rows}
    assert [row["id"] for row in rows if (row["good_reply"] == row["poor_reply"]) != (row["id"] in parents)] == []


def test_labels_are_in_their_ranges_and_none_is_rare(rows: Rows) -> None:
    categories = Counter(row["category"] for row in rows)
    assert set(categories) == CATEGORIES
    assert min(categories.values()) >= 30
    for tag in TAGS:
        counts = Counter(row[tag] for row in rows)
        assert set(counts) == {"0", "1"}
        assert min(counts.values()) >= 30
    urgency = [float(row["urgency"]) for row in rows]
    assert (min(urgency), max(urgency)) == (0, 10)
    assert all(value * 2 == int(value * 2) for value in urgency)


def test_texts_have_a_natural_size_and_no_stray_space(rows: Rows) -> None:
    for row in rows:
        for name in TEXTS:
            text = row[name]
            assert text == text.strip(), (row["id"], name)
            assert "  " not in text, (row["id"], name)
            assert "\n" not in text, (row["id"], name)
            assert len(text) <= 400, (row["id"], name)
        assert len(row["good_reply"]) >= 60, row["id"]
        assert 2 <= len(row["summary"].split()) <= 12, row["id"]
        assert not row["summary"].endswith("."), row["id"]


def test_quotes_are_paired(rows: Rows) -> None:
    odd = [(row["id"], name) for row in rows for name in TEXTS if row[name].count('"') % 2]
    assert odd == []


def test_no_links_and_no_addresses(rows: Rows) -> None:
    assert [(row["id"], row[name]) for row in rows for name in TEXTS if ADDRESS.search(row[name])] == []


def nearest(texts: list[str]) -> list[tuple[float, str, str]]:
    """Pairs whose `difflib` ratio is above 0.75, which only pairs can have that share many runs of three letters."""
    runs = [{text[at : at + 3] for at in range(len(text) - 2)} for text in texts]
    found = []
    for a, b in combinations(range(len(texts)), 2):
        if len(runs[a] & runs[b]) * 3 < max(len(runs[a]), len(runs[b])):
            continue
        ratio = difflib.SequenceMatcher(None, texts[a], texts[b], autojunk=False).ratio()
        if ratio > 0.75:
            found.append((ratio, texts[a], texts[b]))
    return found


def test_near_duplicates_would_be_found() -> None:
    text = "Where is my parcel? It was due on Monday and the neighbours have not seen it."
    assert nearest([text, text.replace("Monday", "Tuesday"), "Something else altogether, about a kettle and a cat."])
    assert not nearest([text, "My parcel was due on Monday, but nobody next door has heard of it. Any news?"])


@pytest.mark.parametrize("name", TEXTS)
def test_no_two_texts_are_nearly_the_same(rows: Rows, name: str) -> None:
    texts = [row[name].lower() for row in rows if name != "poor_reply" or row["poor_reply"] != row["good_reply"]]
    assert nearest(texts) == []
