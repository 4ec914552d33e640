"""The model card: the hub reads its front matter, and whatever stands in settings and tables stays text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.effects.small_runs import settings_of

from leyden.artifacts.card import Card
from leyden.artifacts.export import with_template
from leyden.artifacts.markdown import block, code, seen, table
from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.templates import MarkerTemplate
from leyden.settings.schema import Settings
from leyden.training.problems import make_problem

COLUMNS = {"p": ["secret question"], "a": ["secret answer"]}
COUNTS = {"train": {"rows": 1200, "samples": 7, "tokens": 99, "tokens to predict": 50, "samples with a cut prompt": 3}}
RESULTS = {
    "before": {"validation/loss": 5.5, "step": 0, "samples": 0},
    "best": {"validation/loss": 1.25, "step": 2, "samples": 6},
    "final": {"validation/loss": 1.5, "validation/odd": float("nan"), "step": 3, "samples": 9},
}
CHECKED = {"checked": True, "conversations": 100, "tokens_compared": 1000, "rows_different": 0, "rows_joined": 4,
           "prompts_different": 0, "left_out": {"that the template refuses": 2}}  # fmt: skip
HEADINGS = [
    "Use and limits", "How a prompt is written", "How to load it", "Data", "Results", "Settings", "Versions",
]  # fmt: skip
NASTY = ["<script>alert(1)</script>", "`", "``` \n", "\n---\n", "\n# x\n", "|", "\\|", "\r\n", "\u202e", "\0", "[a](b)",
         "![](x)", "{{ x }}", "&lt;", "'", '"', ": ", "- ", "#", "!!python/object:os.system", "\u2028", "\x85", "😀",
         "*b*", "$", "%YAML", "~", " "]  # fmt: skip
BYTES = tiny_tokenizer()
OWN = BYTES.chat_template
HOSTILE = st.lists(st.sampled_from(NASTY), min_size=1, max_size=6).map("".join)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_of(tmp_path_factory.mktemp("settings"), COLUMNS)


def card_of(own: Settings, **values: Any) -> Card:
    tokenizer = BYTES
    with_markers = MarkerTemplate(own.dataset, tokenizer).jinja if not own.dataset.chat_template else OWN
    tokenizer.chat_template = with_markers
    packages = {"torch": "2.13.0", "transformers": "5.23.0", "other": "1"}
    return Card(own, make_problem(own), tokenizer, COUNTS, RESULTS, packages, **{"checked": CHECKED, **values})


def changed(own: Settings, group: str, **values: Any) -> Settings:
    return own.model_copy(update={group: getattr(own, group).model_copy(update=values)})


def tokens_of(text: str) -> list[Token]:
    """What a reader of Markdown makes of a card, without its front matter; its HTML would be taken as such."""
    body = ModelCard(text).text
    return [
        one
        for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
        for one in (token, *(token.children or ()))
    ]


def headings(tokens: list[Token]) -> list[str]:
    return [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]


def test_the_hub_reads_the_front_matter(plain: Settings) -> None:
    own = changed(plain, "backbone", name="someone/model-1")
    own = changed(own, "dataset", train_dataframe=["hub:people/talks:main/train@v1", "a.csv", "hub:people/talks"])
    own = changed(own, "checkpoint", policy="best")
    card = ModelCard(card_of(own, base="someone/model-1").text())
    assert card.data.to_dict() == {
        "library_name": "peft",
        "base_model": "someone/model-1",
        "pipeline_tag": "text-generation",
        "tags": ["leyden", "causallm", "lora"],
        "datasets": ["people/talks"],
        "model-index": [{
            "name": "CausalLM of someone/model-1",
            "results": [{
                "task": {"type": "text-generation"},
                "dataset": {"name": "held-out rows", "type": "people/talks"},
                "metrics": [{"type": "loss", "value": 1.25, "name": "validation/loss"}],
            }],
        }],
    }  # fmt: skip
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].metric_value == 1.25


def test_what_is_not_known_is_left_out(plain: Settings) -> None:
    """No hub id, no licence, no language, no number that is none; the last evaluation is that of the weights."""
    found = card_of(plain).metadata()
    assert found.keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert found["library_name"] == "transformers"
    assert found["model-index"][0]["results"][0]["metrics"] == [
        {"type": "loss", "value": 1.5, "name": "validation/loss"}
    ]


def test_a_gguf_file_is_no_folder_of_transformers(plain: Settings) -> None:
    card = card_of(plain, gguf="model.gguf")
    assert "library_name" not in card.metadata()
    assert "gguf" in card.metadata()["tags"]
    assert "```python" not in card.text()


def test_the_body_says_what_a_reader_asks(plain: Settings) -> None:
    text = card_of(plain).text()
    assert headings(tokens_of(text)) == ["CausalLM of `tiny:llama`", *HEADINGS]
    assert "<|prompt|>What colour is the sky?<|im_end|><|answer|>Blue.<|im_end|>" in text
    assert "| `<|im_end|>` | one token, 260 |".replace("|im_end|", r"\|im_end\|") in text
    assert "| `validation/loss` | 5.5000 | 1.5000 |" in text
    assert "| train | 1,200 | 7 | 99 | 50 |" in text
    assert "3 samples had more than 128 tokens and lost the beginning of their prompt." in text
    assert "4 the same text with other tokens" in text
    assert "2 conversations that the template refuses were not compared." in text
    assert "torch 2.13.0, transformers 5.23.0." in text
    assert "`optimizer.learning_rate`" in text
    assert "`lora.dropout`" not in card_of(changed(plain, "lora", dropout=0.0)).text()
    assert "secret" not in text
    assert "measure memory" not in text


@pytest.mark.parametrize(
    ("group", "values", "words"),
    [
        ("dataset", {"personalize": True, "chatbot_name": "Ada"}, "in the texts became `Ada` and"),
        ("dataset", {"add_eos_token_to_answer": False}, "No token ends an answer"),
        ("dataset", {"system_column": "s"}, "<|system|>You answer in one word.<|im_end|><|prompt|>What colour"),
        ("dataset", {"parent_id_column": "x"}, "Blue.<|im_end|><|prompt|>And grass?<|im_end|><|answer|>\n"),
        ("dataset", {"prompt_column": ["p", "q"]}, r"several columns, `p`, `q`, in this order with `\n\n` between"),
        ("dataset", {"prompt_column": []}, "It reads and writes plain text"),
        ("dataset", {"chat_template": True}, "<|im_start|>user\nWhat colour is the sky?<|im_end|>"),
        ("augmentation", {"token_mask_probability": 0.25}, "hidden with a chance of 0.25; in use none is"),
        ("augmentation", {"skip_parent_probability": 0.5}, "Earlier turns were left out"),
    ],
)
def test_what_a_template_cannot_repeat_is_said(
    plain: Settings, group: str, values: Mapping[str, Any], words: str
) -> None:
    assert words in card_of(changed(plain, group, **values)).text()


def test_numbers_on_rows_of_the_training_are_told_to_be_that(plain: Settings) -> None:
    seen_before = {**COUNTS, "validation": {"rows": 9, "rows also in training": 4}}
    assert "4 of these rows stand in training too: on them the numbers measure memory." in replace(
        card_of(plain), counts=seen_before
    ).text()  # fmt: skip
    assert "All of these rows were trained on" in card_of(changed(plain, "dataset", train_validation_data=True)).text()


def test_what_was_not_compared_is_said(plain: Settings) -> None:
    for checked in (None, {"checked": False, "faults": ["x"]}):
        assert "were not compared with those of the training" in card_of(plain, checked=checked).text()


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE, HOSTILE, HOSTILE)
def test_hostile_names_and_markers_stay_text(plain: Settings, name: str, column: str, marker: str) -> None:
    escaped = marker.replace("\\", "\\\\")
    own = changed(plain, "backbone", name=name)
    own = changed(
        own, "dataset", train_dataframe=f"{name}.csv", prompt_column=[column, name], answer_column=column,
        text_prompt_start=escaped, text_answer_separator=escaped, personalize=True, chatbot_name=column,
    )  # fmt: skip
    text = card_of(own, base=name).text()
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert front == card_of(own, base=name).metadata()
    assert ModelCard(text).data.to_dict() == front
    tokens = tokens_of(text)
    assert [one.partition(" of ")[0] for one in headings(tokens)] == ["CausalLM", *HEADINGS]
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "hr", "blockquote_open"}
    rows = re.findall(r"tr_open((?:(?!tr_close).)*)", " ".join(token.type for token in tokens))
    assert {len(re.findall("t[hd]_open", row)) for row in rows} == {2, 3, 5}
    assert not any(ord(one) < 32 and one != "\n" for one in text)
    assert not set(text) & set("\u202e\u2028\x85")


@settings(max_examples=80)
@given(HOSTILE)
def test_code_shows_the_text_and_nothing_else(text: str) -> None:
    found = [token for token in MarkdownIt("commonmark").parse(f"a {code(text)} b") if token.type == "inline"]
    kinds = [child.type for one in found for child in one.children or ()]
    assert kinds == ["text", "code_inline", "text"]
    shown = next(child.content for child in found[0].children or () if child.type == "code_inline")
    assert shown.strip() == seen(text).strip()
    cell = MarkdownIt("commonmark").enable("table").parse(table(["h"], [[code(text)]]))
    inline = [token for token in cell if token.type == "inline"][1]
    assert [child.content.strip() for child in inline.children or ()] == [seen(text).strip()]
    fenced = [token for token in MarkdownIt("commonmark").parse(f"{block(text)}\n\nb") if token.type == "fence"]
    assert [one.content for one in fenced] == ["\n".join(seen(line) for line in text.split("\n")) + "\n"]


def test_long_texts_are_cut() -> None:
    assert len(code("x" * 100_000)) == 202


def test_the_template_of_a_tokenizer_is_put_back(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer.chat_template
    with with_template(tokenizer, "other"):
        assert tokenizer.chat_template == "other"
    assert tokenizer.chat_template == before
