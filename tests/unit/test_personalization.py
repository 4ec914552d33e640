from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.personalization import personalized


def changed(text: str, name: str = "Nim", author: str = "the Nim team") -> str:
    found, _ = personalized({"prompt": [text]}, name, author)
    return found["prompt"][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am Open Assistant, made by LAION.", "I am Nim, made by the Nim team."),
        ("I'm OpenAssistant; LAION e.V. built me.", "I'm Nim; the Nim team built me."),
        ("Who are you, open-assistant?", "Who are you, Nim?"),
        ("ChatGPT's answer, and Chat GPT's", "Nim's answer, and Nim's"),
        ("CHATGPT by OPENAI", "Nim by the Nim team"),
        ("OpenAI and Open AI and openai", "the Nim team and the Nim team and the Nim team"),
        ("LAION-AI (the Large-scale Artificial Intelligence Open Network)", "the Nim team (the the Nim team)"),
        ("我是Open Assistant，由LAION开发。", "我是Nim，由the Nim team开发。"),
        ("My name is Assistant.", "My name is Nim."),
        ("I am Assistant", "I am Nim"),
        ("*Open Assistant*\nOpen Assistant\tOpen Assistant", "*Nim*\nNim\tNim"),
    ],
)
def test_names_of_assistants_and_makers_are_replaced(text: str, expected: str) -> None:
    assert changed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "an assistant, my personal Assistant, I am an Assistant",
        "I am Assistants",
        "https://open-assistant.io and github.com/LAION-AI/Open-Assistant",
        "the LAION-5B images",
        "@OpenAI, me@openai.com, #ChatGPT, my_ChatGPT, ChatGPTs",
        "this is open AI research in the open",
        "reopen assistantship",
        "pavilaion",
        "",
    ],
)
def test_other_words_links_and_data_sets_stay(text: str) -> None:
    assert changed(text) == text


def test_the_new_names_are_taken_letter_by_letter_and_once() -> None:
    assert changed("ChatGPT by OpenAI", name=r"\1\g<0>", author="ChatGPT") == r"\1\g<0> by ChatGPT"


def test_prompts_and_answers_alone_are_changed_and_counted() -> None:
    texts = {
        role: ["ChatGPT", "plain", f"{role} of OpenAI"]
        for role in ("prompt", "answer", "system", "rejected", "rejected_prompt")
    }
    texts["answer"][0] = "plain"
    before = {role: list(column) for role, column in texts.items()}
    found, words = personalized(texts, "Nim", "us")
    assert found["prompt"] == ["Nim", "plain", "prompt of us"]
    assert found["answer"] == ["plain", "plain", "answer of us"]
    assert {role: found[role] for role in ("system", "rejected", "rejected_prompt")} == {
        role: before[role] for role in ("system", "rejected", "rejected_prompt")
    }
    assert words == "changed 2 of 3 prompts and 1 of 3 answers"
    assert texts == before


def test_a_table_of_labels_has_prompts_alone() -> None:
    assert personalized({"prompt": ["ChatGPT"]}, "Nim", "us") == ({"prompt": ["Nim"]}, "changed 1 of 1 prompts")


@given(st.text(max_size=200))
def test_a_text_without_the_names_stays(text: str) -> None:
    words = ("assist", "gpt", "laion", "openai", "open ai", "large-scale")
    if not re.search("|".join(words), text, re.IGNORECASE):
        assert changed(text) == text
