"""The effects of prediction settings (spec 1.7 and X21), from a composed config to generated answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.effects.small_runs import CONF, Columns, results, settings_of, trained

from leyden.backbone.generate import generate_texts, stop_strings
from leyden.backbone.tiny import tiny_model, tiny_tokenizer
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import read
from leyden.training.prepare import prepare
from leyden.training.problems import make_metrics, make_problem

TOKENIZER = tiny_tokenizer()
PROMPTS = [TOKENIZER(text)["input_ids"] for text in ("Hello", "a longer prompt than that", "x", "two words")]
TABLE: Columns = {"p": [f"p{n}" for n in range(6)], "a": [f"a{n}" for n in range(6)], "k": [0, 1] * 3,
                  "n": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]}  # fmt: skip
BEST: dict[str, list[str]] = {
    "causal_lm": ["perplexity", "bleu", "rouge", "chrf", "exact_match"],
    "classification": ["auc", "accuracy", "log_loss", "f1"],
    "regression": ["mse", "mae", "r2", "spearman"],
}
LOWER = {"perplexity", "log_loss", "mse", "mae"}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama")


def generation(*overrides: str) -> Any:
    config, faults = compose_config("train", ["backbone=tiny", *[f"generation.{key}" for key in overrides]], CONF)
    assert not faults
    assert config is not None
    return read(config).generation


def answers(model: Any, *overrides: str, prompts: Any = None, seed: int = 0, stops: tuple[str, ...] = ()) -> list[str]:
    settings, own = generation("max_length_inference=16", *overrides), prompts or PROMPTS
    stops = stops or stop_strings(settings, ())
    size = settings.batch_size_inference or 2
    return generate_texts(model, TOKENIZER, own, settings, stops, batch_size=size, seed=seed)


@pytest.mark.parametrize("problem", BEST)
def test_p1_each_metric_is_computed_under_its_name_and_knows_which_way_is_better(tmp_path: Path, problem: str) -> None:
    column = {"classification": "k", "regression": "n"}.get(problem, "a")
    own = [f"problem={problem}", f"dataset.answer_column={column}", f"metric=[{','.join(BEST[problem])}]"]
    settings = settings_of(tmp_path, TABLE, *own, "trainer.epochs=0")
    metrics = make_metrics(settings, make_problem(settings))
    assert [one.name for one in metrics][: len(BEST[problem])] == BEST[problem]
    for one in metrics:
        assert one.direction == ("min" if one.name in LOWER else "max")
        assert one.improves(0.1, 0.2) is (one.name in LOWER)
    found = results(trained(tmp_path, TABLE, *own, "trainer.epochs=0"))
    assert {f"validation/{name}" for name in BEST[problem]} <= set(found)


def test_p1_knobs_of_a_metric_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    own = ["metric=[bleu,chrf]", "metric.bleu.tokenize=flores200", "metric.chrf.word_order='2'"]
    settings = settings_of(tmp_path, TABLE, *own)
    Path(settings.dataset.train_tables[0]).unlink()
    with pytest.raises(ConfigError) as caught:
        prepare(settings)
    assert [fault.split(" ")[0] for fault in caught.value.faults] == [
        "metric.bleu.tokenize='flores200'", "metric.chrf.word_order='2'",
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", ["bleus", "auc"])
def test_p1_another_metric_is_refused(tmp_path: Path, wrong: str) -> None:
    if wrong == "auc":
        with pytest.raises(ConfigError, match="metric=auc does not go with this problem"):
            settings_of(tmp_path, TABLE, f"metric={wrong}")
        return
    _, faults = compose_config("train", [f"metric={wrong}"], CONF)
    assert len(faults) == 1
    assert "bleu" in faults[0]


def test_p2_p3_a_judge_needs_a_model_and_a_template_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leyden.training.prepare import prepare

    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    for own, message in (
        (["metric=gpt"], "metric.gpt.model"),
        (["metric=gpt", "metric.gpt.model=m", "metric.gpt.template=generel"], "template"),
        (["metric=gpt", "metric.gpt.model=m", "metric.gpt.template=rag"], "context_truncated"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(settings_of(tmp_path, TABLE, *own))


def test_p4_p5_a_model_that_wants_to_end_writes_as_many_tokens_as_it_must() -> None:
    model: Any = tiny_model("llama")
    likes_to_end = True

    def end(module: Any, inputs: Any, output: Any) -> None:
        output.logits[..., 260] += 1000.0 if likes_to_end else -1000.0

    model.register_forward_hook(end)
    seen: list[list[int]] = []
    plain = model.generate

    def watched(**inputs: Any) -> Any:
        found = plain(**inputs)
        seen.extend(found[:, inputs["input_ids"].shape[1] :].tolist())
        return found

    model.generate = watched
    answers(model, "min_length_inference=7", "max_length_inference=9")
    assert [row.index(260) for row in seen] == [7] * len(PROMPTS)
    seen.clear()
    answers(model, "min_length_inference=0", "max_length_inference=9")
    assert [row.index(260) for row in seen] == [0] * len(PROMPTS)
    seen.clear()
    likes_to_end = False
    answers(model, "max_length_inference=5")
    assert [len(row) for row in seen] == [5] * len(PROMPTS)
    with pytest.raises(ConfigError, match="min_length_inference=9 is above"):
        generation("min_length_inference=9", "max_length_inference=3")


def test_p6_the_batch_size_changes_nothing(model: Any, tmp_path: Path) -> None:
    assert answers(model, "batch_size_inference=1") == answers(model, "batch_size_inference=8")
    found = []
    for size in (0, 1, 8):
        own = [
            f"generation.batch_size_inference={size}",
            "trainer.epochs=0",
            "overwrite=true",
            "metric=[perplexity,chrf]",
        ]
        found.append(results(trained(tmp_path, TABLE, *own)))
    for other in found[1:]:
        assert {name: pytest.approx(value, rel=1e-6) for name, value in other.items()} == found[0]


def test_p7_sampling_repeats_per_seed(model: Any) -> None:
    sample = ["do_sample=true", "temperature=1.5"]
    assert answers(model) == answers(model, seed=3)
    assert answers(model, *sample, seed=1) == answers(model, *sample, seed=1)
    assert answers(model, *sample, seed=1) != answers(model, *sample, seed=2)
    with pytest.raises(ConfigError, match="do_sample=true needs generation.temperature"):
        generation("do_sample=true")


@torch.no_grad()
def test_p8_beams_find_what_is_at_least_as_likely(model: Any) -> None:
    def logp(prompt: list[int], text: str) -> float:
        ids = torch.tensor([[*prompt, *TOKENIZER(text)["input_ids"]]])
        scores = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return float(scores.gather(1, ids[0, len(prompt) :, None]).sum())

    short = ["max_length_inference=3", "min_length_inference=3"]
    greedy, beams = answers(model, *short), answers(model, *short, "num_beams=4")
    compared = 0
    for prompt, one, two in zip(PROMPTS, greedy, beams, strict=True):
        if len(TOKENIZER(one)["input_ids"]) == len(TOKENIZER(two)["input_ids"]) == 3:  # what is no UTF-8 cannot be read
            compared += 1
            assert logp(prompt, two) >= logp(prompt, one) - 1e-4
    assert compared or greedy != beams


@pytest.mark.parametrize("tight", ["temperature=0.0001", "top_k=1", "top_p=0.0001"])
def test_p9_p12_p13_the_limits_of_sampling_are_greedy(model: Any, tight: str) -> None:
    warm = [] if tight.startswith("temperature") else ["temperature=2"]
    assert answers(model, "do_sample=true", *warm, tight, seed=5) == answers(model)


def test_p9_a_whole_temperature_is_a_number(model: Any) -> None:
    assert answers(model, "do_sample=true", "temperature=2", seed=5) != answers(model)


def test_p10_a_penalty_of_one_is_off_and_a_high_one_stops_loops(model: Any) -> None:
    assert answers(model, "repetition_penalty=1.0") == answers(model)
    loops = tiny_model("llama")
    ids = torch.tensor([PROMPTS[0]])
    free = loops.generate(ids, max_new_tokens=40, do_sample=False, repetition_penalty=10.0, eos_token_id=None)  # type: ignore[operator]
    new = free[0, ids.shape[1] :].tolist()
    assert len(set(new)) == len(new)
    text = answers(loops, "repetition_penalty=10", "max_length_inference=40", prompts=[PROMPTS[0]])[0]
    kept = new[: new.index(260)] if 260 in new else new
    assert text.startswith(TOKENIZER.decode(kept, skip_special_tokens=True).strip()[:3])


def test_p11_no_answer_holds_a_stop_string(model: Any) -> None:
    whole = answers(model, "max_length_inference=12")
    middle = next(text for text in whole if len(text) > 4)[2:4]
    stopped = answers(model, "max_length_inference=12", stops=(middle,))
    assert not any(middle in text for text in stopped)
    for before, after in zip(whole, stopped, strict=True):
        assert after == before.split(middle)[0].strip()
    assert stop_strings(generation(r"stop_tokens='\n\n ,<|im_start|>, User:'"), ("<|prompt|>",)) == (
        "<|im_start|>", "User:", "<|prompt|>",
    )  # fmt: skip


def test_x21_a_slow_model_is_cut_off(model: Any) -> None:
    def slow(module: Any, inputs: Any) -> None:
        time.sleep(0.02)

    hook = model.register_forward_pre_hook(slow)
    try:
        start = time.perf_counter()
        answers(model, "max_length_inference=500", "min_length_inference=500", "max_time=0.2", prompts=PROMPTS[:1])
        spent = time.perf_counter() - start
    finally:
        hook.remove()
    assert spent < 5  # without the cap it is at least ten seconds
    with pytest.raises(ConfigError, match="max_time"):
        generation("max_time=-1")
