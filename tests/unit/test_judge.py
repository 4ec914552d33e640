from __future__ import annotations

import dataclasses
import logging
import random
import sys
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.chat_server import Answer, Call, ChatServer, refuses, says

from leyden.problem import judge as judge_module
from leyden.problem import judge_calls
from leyden.problem.judge import Case, Judge, JudgeError, Verdict, averages
from leyden.problem.judge_calls import _seconds_asked
from leyden.problem.judge_endpoint import find_endpoint
from leyden.problem.judge_template import RANGES, read_score, read_template
from leyden.settings.errors import ConfigError

KEY = "sk-secret-0123456789"
GOOD = says("Fine.\nSCORE: 0.75")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key and nothing else; waits that no test notices."""
    import os

    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(judge_calls, "FIRST_WAIT_S", 0.01)


def knobs(project_root: Path) -> dict[str, Any]:
    values = yaml.safe_load((project_root / "conf/metric/gpt.yaml").read_text(encoding="utf-8"))
    assert values.pop("_target_") == "leyden.problem.judge.Judge"
    assert values.pop("direction") == "max"
    return dict(values)


@pytest.fixture
def make(project_root: Path) -> Any:
    """A judge with the values of its YAML file, but for those given."""

    def judge(server: ChatServer | None = None, **changes: Any) -> Judge:
        place = {} if server is None else {"base_url": server.url}
        return Judge(**{**knobs(project_root), "model": "judge-1", **place, **changes})

    return judge


def cases(count: int) -> list[Case]:
    return [Case(f"prompt-{row}.", f"target-{row}.", f"prediction-{row}.") for row in range(count)]


def row_of(call: Call) -> int:
    return int(call.text.split("prediction-")[1].split(".")[0])


def wait_for_threads() -> None:
    """Until no call of a broken-off review is under way; fails if one stays."""
    deadline = time.monotonic() + 15
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("judge")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_a_review_sends_what_it_should(make: Any) -> None:
    with ChatServer(lambda call: GOOD) as server:
        verdicts = make(server).review(cases(1))
    assert verdicts == [Verdict(0.75, "Fine.\nSCORE: 0.75", None, None)]
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert {name: value for name, value in call.body.items() if name != "messages"} == {
        "model": "judge-1",
        "temperature": 0,
        "max_tokens": 1024,
    }
    assert [message["role"] for message in call.body["messages"]] == ["system", "user"]
    assert call.body["messages"][0]["content"] == judge_calls.SYSTEM
    assert all(text in call.text for text in ("prompt-0.", "target-0.", "prediction-0."))


def test_calls_go_in_parallel_and_come_back_in_order(make: Any) -> None:
    meeting = threading.Barrier(4)  # nobody is answered before four are there

    def answer(call: Call) -> Answer:
        meeting.wait(timeout=20)
        return says(f"SCORE: {row_of(call) / 100}", delay=0.02 * (3 - row_of(call) % 4))

    steps: list[tuple[object, threading.Thread]] = []
    with ChatServer(answer) as server:
        verdicts = make(server, parallel_calls=4).review(
            cases(12), lambda units: steps.append((units, threading.current_thread()))
        )
    assert [verdict.score for verdict in verdicts] == [row / 100 for row in range(12)]
    assert server.most_at_once == 4
    assert steps == [(1, threading.main_thread())] * 12


def test_parallel_calls_is_the_most(make: Any) -> None:
    with ChatServer(lambda call: says("SCORE: 1", delay=0.01)) as server:
        make(server, parallel_calls=2).review(cases(10))
    assert server.most_at_once == 2
    assert len(server.calls) == 10


@pytest.mark.parametrize(
    "bad",
    [
        refuses(429, retry_after="0"), refuses(500), refuses(502), refuses(503), refuses(408), refuses(409),
        Answer(hang_up=True), Answer(GOOD.body, delay=30.0),
    ],
    ids=["429", "500", "502", "503", "408", "409", "hang up", "silence"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(make: Any, bad: Answer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="leyden")
    with ChatServer(lambda call: bad if call.number < 2 else GOOD) as server:
        clock = time.monotonic()
        (verdict,) = make(server, timeout_seconds=1.0 if bad.delay else 60.0).review(cases(1))
        assert time.monotonic() - clock < 25
    assert verdict.score == 0.75
    assert len(server.calls) == 3
    assert "asked again 2 times for 1 rows" in caplog.text


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_attempts_are_counted(make: Any, attempts: int) -> None:
    with ChatServer(lambda call: refuses(500, "broken") if row_of(call) == 1 else GOOD) as server:
        verdicts = make(server, attempts=attempts, max_failed_share=0.5).review(cases(3))
    assert [row_of(call) for call in server.calls].count(1) == attempts
    assert len(server.calls) == attempts + 2
    assert [verdict.score for verdict in verdicts] == [0.75, None, 0.75]
    assert "status 500" in verdicts[1].failure
    assert "broken" in verdicts[1].failure
    assert f"the last of {attempts} attempts" in verdicts[1].failure


def test_waits_grow_and_retry_after_is_honoured(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_calls, "FIRST_WAIT_S", 0.1)
    with ChatServer(lambda call: refuses(503) if call.number < 3 else GOOD) as server:
        make(server, attempts=4).review(cases(1))
    gaps = [later.arrived - call.arrived for call, later in zip(server.calls, server.calls[1:], strict=False)]
    assert all(gap >= least for gap, least in zip(gaps, [0.05, 0.1, 0.2], strict=True)), gaps
    with ChatServer(lambda call: GOOD if call.number else refuses(429, retry_after="1")) as server:
        make(server).review(cases(1))
    assert server.calls[1].arrived - server.calls[0].arrived >= 1.0


def test_an_endpoint_that_asks_for_hours_is_not_waited_for(make: Any) -> None:
    with ChatServer(lambda call: GOOD if row_of(call) else refuses(429, retry_after="3600")) as server:
        verdicts = make(server, max_failed_share=0.5).review(cases(2))
    assert "asks to wait 3600 seconds" in verdicts[0].failure
    assert len(server.calls) == 2


def test_retry_after_in_all_its_forms() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (_seconds_asked({"retry-after": date}) or 0) <= 30
    assert _seconds_asked({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert _seconds_asked({"retry-after": "1.5"}) == 1.5
    assert _seconds_asked({"retry-after-ms": "20", "retry-after": "9"}) == pytest.approx(0.02)
    for nothing in ("", "soon", "-3", "nan"):
        assert _seconds_asked({"retry-after": nothing}) is None
    assert _seconds_asked({}) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuses(401, "bad key"), "Set OPENAI_API_KEY"),
        (refuses(402, "pay"), "no credit"),
        (refuses(404, "no model judge-1"), "metric.gpt.model"),
        (refuses(429, "quota", code="insufficient_quota"), "no credit"),
        (refuses(400, "only 1 is supported", param="temperature"), "takes no temperature of 0"),
    ],
)
def test_what_concerns_all_rows_ends_the_review_at_once(make: Any, answer: Answer, said: str) -> None:
    with ChatServer(lambda call: answer) as server:
        with pytest.raises(JudgeError, match=said) as caught:
            make(server, parallel_calls=2).review(cases(50))
        assert answer.body["error"]["message"] in str(caught.value)
    assert len(server.calls) <= 2, "calls that were under way, and no more"


def test_an_error_does_not_wait_for_calls_under_way(make: Any) -> None:
    meeting = threading.Barrier(4)

    def answer(call: Call) -> Answer:
        meeting.wait(timeout=20)
        return says("SCORE: 1", delay=20) if row_of(call) else refuses(401)

    with ChatServer(answer) as server:
        clock = time.monotonic()
        with pytest.raises(JudgeError):
            make(server).review(cases(4))
        assert time.monotonic() - clock < 15
        assert len(server.calls) == 4
    wait_for_threads()


def test_an_interrupt_ends_the_review(make: Any) -> None:
    def interrupt(units: int) -> None:
        raise KeyboardInterrupt

    slow = says("SCORE: 1", delay=20)
    with ChatServer(lambda call: slow if row_of(call) else GOOD) as server:
        clock = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            make(server, parallel_calls=3).review(cases(30), interrupt)
        assert time.monotonic() - clock < 15
        assert len(server.calls) <= 5
    wait_for_threads()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("{not json"), "no JSON"),
        (Answer(""), "no JSON"),
        (Answer("<html>busy</html>", headers={"Content-Type": "text/html"}), "no text"),
        (Answer({}), "no text"),
        (Answer([1, 2]), "no text"),
        (Answer("null"), "no text"),
        (Answer({"choices": []}), "no text"),
        (Answer({"choices": None}), "no text"),
        (Answer({"choices": ["x"]}), "no text"),
        (Answer({"choices": [{"message": None}]}), "no text"),
        (Answer({"choices": {"0": "x"}}), "no text"),
        (says(None), "no text"),
        (says("  \n"), "no text"),
        (says(["SCORE: 1"]), "no text"),
        (says(None, finish_reason="content_filter"), r"no text \(content_filter\)"),
        (says("SCORE: 1", finish_reason="length"), "cut at metric.gpt.max_tokens=1024"),
        (says("A good answer."), "no SCORE:"),
        (says("0.9"), "no SCORE:"),
        (says("Reasons. SCORE:"), "no number behind SCORE:, but ''"),
        (says("SCORE: high"), "no number behind SCORE:, but 'high'"),
        (says("SCORE: 8/10"), "outside 0 to 1"),
        (says("SCORE: -0.1"), "outside 0 to 1"),
        (refuses(400, "prompt too long"), "status 400.*prompt too long"),
        (refuses(403, "flagged"), "status 403.*flagged"),
        (refuses(422, "unprocessable"), "status 422"),
    ],
)
def test_a_bad_reply_fails_its_row_and_is_not_repeated(make: Any, answer: Answer, reason: str) -> None:
    with ChatServer(lambda call: answer if row_of(call) == 1 else GOOD) as server:
        verdicts = make(server, max_failed_share=0.4).review(cases(3))
    assert [verdict.score for verdict in verdicts] == [0.75, None, 0.75]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(verdicts[1].failure)
    assert len(server.calls) == 3
    assert averages(verdicts) == {"gpt": 0.75}, "a row that failed is no 0"


def test_few_failures_are_told_and_many_raise(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    def answer(call: Call) -> Answer:
        return says("I like it") if row_of(call) == 3 else says("SCORE: 7") if row_of(call) == 5 else GOOD

    with ChatServer(answer) as server:
        make(server, max_failed_share=0.2).review(cases(10))
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "no score for 2 of 10 rows" in record.getMessage()
        assert "no SCORE: in the reply (1 of them, first row 4)" in record.getMessage()
        with pytest.raises(JudgeError, match="no score for 2 of 10 rows.*max_failed_share=0.1 allows 1") as caught:
            make(server).review(cases(10))
    assert "SCORE: 7 is outside 0 to 1 (1 of them, first row 6)" in str(caught.value)


def test_without_any_score_there_is_no_mean(make: Any) -> None:
    with ChatServer(lambda call: says("?")) as server, pytest.raises(JudgeError, match="2 of 2 rows"):
        make(server, max_failed_share=1.0).review(cases(2))


def test_nobody_listening_is_an_error_of_ours(make: Any) -> None:
    with ChatServer(lambda call: GOOD) as server:
        gone = server.url
    with pytest.raises(JudgeError, match="no connection"):
        make(base_url=gone, attempts=2).review(cases(2))


def test_no_row_is_no_call(make: Any) -> None:
    assert make(base_url="http://127.0.0.1:9/v1").review([]) == []
    assert averages([])["gpt"] != averages([])["gpt"]


def test_too_many_rows_are_refused_before_any_call(make: Any) -> None:
    with ChatServer(lambda call: GOOD) as server, pytest.raises(ConfigError, match="metric.gpt.max_rows=2"):
        make(server, max_rows=2).review(cases(3))
    assert not server.calls


def test_python_s_random_numbers_are_left_alone(make: Any) -> None:
    before = random.getstate()
    with ChatServer(lambda call: GOOD if call.number else refuses(500)) as server:
        make(server).review(cases(1))
    assert len(server.calls) == 2
    assert random.getstate() == before


def test_the_key_stands_nowhere(make: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(call: Call) -> Answer:
        sent = call.headers["authorization"]
        return {
            0: says(f"You sent {sent}. SCORE: 1"), 1: says(f"SCORE: {KEY}"), 2: refuses(400, f"what is {sent}?"),
            3: refuses(500, f"{'x' * 280} {KEY}"), 4: Answer(hang_up=True), 5: Answer(f"<p>{sent}"),
        }[row_of(call)]  # fmt: skip

    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "h11"):
        caplog.set_level(logging.DEBUG, logger=name)
    with ChatServer(answer) as server:
        judge = make(server, max_failed_share=0.9)
        verdicts = judge.review(cases(6))
        with pytest.raises(JudgeError) as many:
            make(server).review(cases(6))
    with ChatServer(lambda call: refuses(401, f"wrong key: {KEY}")) as server, pytest.raises(JudgeError) as refused:
        make(server).review(cases(1))
    assert "wrong key: ***" in str(refused.value)
    assert verdicts[0].explanation == "You sent Bearer ***. SCORE: 1"
    assert sum(verdict.score is None for verdict in verdicts) == 5
    endpoint = find_endpoint(server.url, {"OPENAI_API_KEY": KEY})
    captured = capfd.readouterr()
    written = [
        caplog.text, captured.out, captured.err, repr(verdicts), repr(judge), str(dataclasses.asdict(judge)),
        repr(endpoint), str(endpoint), *map(str, judge.check([], 1)),
        *("".join(traceback.format_exception(found.value)) for found in (many, refused)),
    ]  # fmt: skip
    assert len(caplog.text) > 1000, "the libraries were to speak"
    for text in written:
        assert KEY not in text
        assert KEY[:10] not in text


@pytest.mark.parametrize("key", ["sk-two words", "sk-line\nend", "sk-é", "sk-\x00"])
def test_a_broken_key_is_refused_unseen(make: Any, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds a blank") as caught:
        find_endpoint("http://127.0.0.1:9/v1", {"OPENAI_API_KEY": key})
    assert key not in str(caught.value)


def test_blanks_around_a_key_do_not_matter() -> None:
    assert find_endpoint(None, {"OPENAI_API_KEY": f"{KEY}\n"}).key == KEY


def test_a_newer_model_gets_its_limit_by_the_newer_name(make: Any) -> None:
    def answer(call: Call) -> Answer:
        said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return refuses(400, said, param="max_tokens") if "max_tokens" in call.body else GOOD

    with ChatServer(answer) as server:
        verdicts = make(server, parallel_calls=1, attempts=1).review(cases(3))
    assert [verdict.score for verdict in verdicts] == [0.75] * 3
    assert [call.body.get("max_completion_tokens") for call in server.calls] == [None, 1024, 1024, 1024]


def test_the_address_comes_from_the_setting_or_the_environment() -> None:
    key = {"OPENAI_API_KEY": KEY}
    both = {**key, "OPENAI_BASE_URL": "http://b/v1", "OPENAI_API_BASE": "http://a/v1"}
    assert find_endpoint("http://c/v1", both).url == "http://c/v1"
    assert find_endpoint(None, both).url == "http://b/v1"
    assert find_endpoint(None, {**both, "OPENAI_BASE_URL": ""}).url == "http://a/v1"
    public = find_endpoint(None, key)
    assert public.url == "https://api.openai.com/v1"
    with pytest.raises(ConfigError, match="Set the environment variable OPENAI_API_KEY"):
        find_endpoint(None, {})
    assert find_endpoint("http://c/v1", {}).key == "no-key"


def test_an_endpoint_of_the_environment_is_called_without_a_key(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with ChatServer(lambda call: GOOD) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("OPENAI_API_TYPE", "open_ai")
        judge = make()
        assert judge.check([], 1) == []
        assert judge.review(cases(1))[0].score == 0.75
    assert server.calls[0].headers["authorization"] == "Bearer no-key"


def test_azure(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatServer(lambda call: GOOD) as server:
        for name, value in {"TYPE": "azure", "BASE": server.root, "DEPLOYMENT_ID": "my-judge"}.items():
            monkeypatch.setenv(f"OPENAI_API_{name}", value)
        assert make().check([], 1) == []
        assert make().review(cases(1))[0].score == 0.75
        monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
        make().review(cases(1))
    first, second = server.calls
    assert first.path == "/openai/deployments/my-judge/chat/completions?api-version=2023-05-15"
    assert first.headers["api-key"] == KEY
    assert second.path.endswith("api-version=2024-10-21")


def test_azure_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError) as caught:
        find_endpoint(None, {"OPENAI_API_TYPE": "azure"})
    assert [name in str(caught.value) for name in ("OPENAI_API_BASE", "OPENAI_API_DEPLOYMENT_ID", "OPENAI_API_KEY")]
    assert len(caught.value.faults) == 3
    with pytest.raises(ConfigError, match="OPENAI_API_TYPE='bedrock' is not known"):
        find_endpoint(None, {"OPENAI_API_TYPE": "bedrock", "OPENAI_API_KEY": KEY})


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "http://x:99999/v1", "http://[::1/v1"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="metric.gpt.base_url.* is no address"):
        find_endpoint(url, {})


@pytest.mark.parametrize("url", ["http://me:pw-12@x/v1", "http://x/v1?api_key=pw-12", "http://x/v1#pw-12"])
def test_an_address_holds_no_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        find_endpoint(url, {})
    assert "pw-12" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "rows", "said"),
    [
        ({"model": None}, 1, "metric.gpt.model is not set"),
        ({"model": " "}, 1, "metric.gpt.model is not set"),
        ({}, 101, "metric.gpt.max_rows=100 is below the 101 rows"),
        ({"parallel_calls": 0}, 1, "metric.gpt.parallel_calls=0"),
        ({"attempts": 1.5}, 1, "metric.gpt.attempts=1.5"),
        ({"attempts": True}, 1, "metric.gpt.attempts=True"),
        ({"max_tokens": "many"}, 1, "metric.gpt.max_tokens='many'"),
        ({"timeout_seconds": 0}, 1, "metric.gpt.timeout_seconds=0"),
        ({"timeout_seconds": float("inf")}, 1, "metric.gpt.timeout_seconds=inf"),
        ({"max_failed_share": 1.1}, 1, "metric.gpt.max_failed_share=1.1"),
        ({"template": "mt-bench"}, 1, "metric.gpt.template='mt-bench' is no file"),
        ({"score_range": [0, 1]}, 1, "metric.gpt.score_range has no effect"),
        ({"base_url": "nowhere"}, 1, "metric.gpt.base_url='nowhere' is no address"),
        ({"template": "rag"}, 1, "'question', which the validation table lacks. It has text, category"),
    ],
)
def test_faults_are_found_before_training(make: Any, changes: dict[str, Any], rows: int, said: str) -> None:
    faults = make(**changes).check(["text", "category"], rows)
    assert any(said in fault for fault in faults), faults


def test_all_faults_are_told_at_once_and_sound_settings_have_none(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make().check(["text"], 100) == []
    assert make(template="rag").check(["context_truncated", "question"], 1) == []
    monkeypatch.delenv("OPENAI_API_KEY")
    assert len(make(model=None, attempts=0, template="rag").check([], 101)) == 6


def test_the_missing_package_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "find_spec", lambda name: None)
    assert make().check([], 1) == ["metric=gpt needs the package openai. Run: pip install 'leyden[judge]'"]


def test_importing_the_judge_imports_no_client() -> None:
    import subprocess

    code = "import sys, leyden.problem.judge; print(sorted({'openai', 'httpx2'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2] / "src"
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", RANGES)
def test_each_template_of_ours_shows_all_texts_and_names_its_scale(name: str) -> None:
    template = read_template(name)
    cells = {column: f"cell of {column}." for column in template.columns}
    filled = template.fill(Case("the prompt.", "the target.", "the prediction.", cells))
    shown = {"the target.", "the prediction.", *(cells.values() or ["the prompt."])}
    assert all(text in filled for text in shown)
    assert "{" not in filled
    lowest, highest = RANGES[name]
    assert f"{lowest:g} to {highest:g}" in filled
    assert lowest <= read_score(filled, lowest, highest) <= highest, "the form it asks for is the form that is read"
    assert template.columns == ({"context_truncated", "question"} if name == "rag" else frozenset())


def test_two_turns_are_judged_with_a_solution_where_there_is_one(make: Any) -> None:
    rows = [
        Case("q", "42", "a", {"category": "math"}),
        Case("q", "", "a", {"category": "writing"}),
        Case("q", "7", "a", {"category": "math"}),
        Case("q", "7", "a", {"category": ""}),
    ]

    def answer(call: Call) -> Answer:
        assert ("<solution>" in call.text) is ("42" in call.text or "7" in call.text)
        return says("SCORE: 8/10" if "42" in call.text else "SCORE: 5" if "<solution>" in call.text else "SCORE: 10")

    with ChatServer(answer) as server:
        verdicts = make(server, template="two_turn").review(rows)
    assert [(verdict.score, verdict.category) for verdict in verdicts] == [
        (8.0, "math"), (10.0, "writing"), (5.0, "math"), (5.0, None),
    ]  # fmt: skip
    assert averages(verdicts) == {"gpt": 7.0, "gpt/math": 6.5, "gpt/writing": 10.0}


def test_a_row_without_a_score_is_in_no_mean() -> None:
    verdicts = [Verdict(0.0, "", "a", None), Verdict(None, "", "a", "x"), Verdict(1.0, "", "a", None)]
    assert averages([*verdicts, Verdict(None, "", "b", "x")]) == pytest.approx(
        {"gpt": 0.5, "gpt/a": 0.5, "gpt/b": float("nan")}, nan_ok=True
    )


def test_a_template_of_the_user(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("{{ row['Für wen'] }}/{{ row.tone }}/{{ prompt | upper }}/{{ prediction }}", encoding="utf-8")
    judge = make(template=str(file), score_range=[-2, 2])
    assert judge.check(["Für wen", "tone"], 1) == []
    (fault,) = judge.check(["tone"], 1)
    assert "'Für wen'" in fault
    (fault,) = make(template=str(file)).check(["Für wen", "tone"], 1)
    assert "metric.gpt.score_range is not set" in fault
    with ChatServer(lambda call: says("SCORE: -1.5")) as server:
        judge = make(server, template=str(file), score_range=[-2, 2])
        (verdict,) = judge.review([Case("p", "t", "{{ 7 * 7 }} {_PROMPT}", {"Für wen": "Kinder", "tone": "mild"})])
    assert verdict.score == -1.5
    assert server.calls[0].text == "Kinder/mild/P/{{ 7 * 7 }} {_PROMPT}", "texts are no templates"


def test_a_template_of_h2o_fills_as_it_did_there(tmp_path: Path) -> None:
    file = tmp_path / "old.txt"
    text = 'Q: {_PROMPT} C: {context} T: {_TARGET_TEXT} P: {_PREDICTED_TEXT} as {{"SCORE": 1}}'
    file.write_text(text, encoding="utf-8")
    template = read_template(str(file))
    assert template.columns == {"context"}
    filled = template.fill(Case("a{b}", "t", "{{ row }}", {"context": "c"}))
    assert filled == text.format(_PROMPT="a{b}", context="c", _TARGET_TEXT="t", _PREDICTED_TEXT="{{ row }}")


def test_old_names_work_in_new_templates(tmp_path: Path) -> None:
    file = tmp_path / "mixed.txt"
    file.write_text("{{ _PROMPT }} {{ _TARGET_TEXT }} {{ _PREDICTED_TEXT }}", encoding="utf-8")
    assert read_template(str(file)).fill(Case("a", "b", "c")) == "a b c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Is it good?", "no slot for the answer"),
        ("", "no slot for the answer"),
        ("{{ prompt }} {{ target }}", "no slot for the answer"),
        ("{_PROMPT} {_TARGET_TEXT}", "no slot for the answer"),
        ("{{ prediction }} {{ question }}", r"no slot \{\{ question \}\}.*row\['question'\]"),
        ("line\n{{ prediction", "line 2"),
        ("{% if prediction %}", "line 1"),
        ("{{ prediction | nofilter }}", "nofilter"),
        ("{{ prediction.__class__.__mro__ }}", "cannot be filled"),
        ("{{ prediction }}{% include 'x' %}", "cannot be filled"),
        ("{{ prediction }}{{ 1 / 0 }}", "cannot be filled"),
        ("{{ prediction }}{{ row[prompt] }}", "cannot be filled"),
        ("{_PREDICTED_TEXT} {_PROMPT!r}", "must be a name and nothing else"),
        ("{_PREDICTED_TEXT} {}", "must be a name and nothing else"),
        ("{_PREDICTED_TEXT} {", "Its slots are"),
        ("{_PREDICTED_TEXT} }", "Its slots are"),
    ],
)
def test_a_template_that_cannot_work_is_refused(make: Any, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        read_template(str(file))
    assert "metric.gpt.template=" in str(caught.value)
    assert make(template=str(file), score_range=[0, 1]).check([], 1) == list(caught.value.faults)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00{{ prediction }}")
    for path in (tmp_path / "binary", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read as UTF-8 text"):
            read_template(str(path))


def test_a_template_that_fails_on_one_row_names_it(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "picky.txt"
    file.write_text("{{ prediction }}{{ 1 // (row['n'] | int) }}", encoding="utf-8")
    with ChatServer(lambda call: GOOD) as server, pytest.raises(ConfigError, match="row 2 of the evaluation"):
        make(server, template=str(file), score_range=[0, 1]).review([Case("", "", "", {"n": n}) for n in "10"])
    assert not server.calls


@pytest.mark.parametrize(
    ("reply", "scale", "score"),
    [
        ("SCORE: 8/10", (1, 10), 8.0),
        ("SCORE:8/10", (1, 10), 8.0),
        ("SCORE: 8 / 10", (1, 10), 8.0),
        ("Good.\nSCORE: 0.8\n", (0, 1), 0.8),
        ("SCORE: 1 at first, but\nSCORE: 0.25 it is", (0, 1), 0.25),
        ("SCORE: .5", (0, 1), 0.5),
        ("SCORE: 8.", (1, 10), 8.0),
        ("SCORE:\n\n0", (0, 1), 0.0),
        ("SCORE: 1e0", (0, 1), 1.0),
        ("SCORE: +1", (0, 1), 1.0),
    ],
)
def test_scores_are_read_as_written(reply: str, scale: tuple[float, float], score: float) -> None:
    assert read_score(reply, *scale) == score


@pytest.mark.parametrize(
    "reply",
    ["", "8", "Score: 8", "SCORE 8", "SCORE:", "SCORE: ", "SCORE: /10", "SCORE: **8**", "SCORE: [8]", "SCORE: 8,5",
     "SCORE: eight", "SCORE: nan", "SCORE: inf", "SCORE: 1_0", "SCORE: ٨", "SCORE: 0", "SCORE: 11", "SCORE: 8-9",
     "SCORE: 5 SCORE: none", "SCORE: 8%"],
)  # fmt: skip
def test_anything_else_is_no_score(reply: str) -> None:
    with pytest.raises(ValueError, match="SCORE:"):
        read_score(reply, 1, 10)


@given(
    st.text(max_size=20),
    st.lists(st.one_of(st.text(max_size=8), st.from_regex(r"-?[0-9.]{1,4}(/10)?", fullmatch=True)), max_size=3),
)
@example("", ["1_0"])
def test_a_score_is_what_the_formula_says_or_none(before: str, behind: list[str]) -> None:
    reply = before + "SCORE: ".join(["", *behind])
    try:
        score = read_score(reply, 0, 10)
    except ValueError:
        return
    # Section 5.4 of the specification, word for word.
    assert "SCORE:" in reply
    assert score == float(reply.split("SCORE:")[-1].split()[0].split("/")[0])
    assert 0 <= score <= 10


def test_the_yaml_file_holds_every_knob(project_root: Path) -> None:
    assert list(knobs(project_root)) == [entry.name for entry in dataclasses.fields(Judge)]


def test_the_public_endpoint_gets_the_newer_name_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def create(**request: Any) -> SimpleNamespace:
        sent.append(request)
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="x"), finish_reason="stop")])

    endpoint = find_endpoint(None, {"OPENAI_API_KEY": KEY})
    calls = judge_calls.Calls(endpoint, "m", attempts=1, max_tokens=5, timeout=1)
    monkeypatch.setattr(calls._client.chat.completions, "create", create)
    assert calls.ask("t") == "x"
    calls.close()
    assert sent[0]["max_completion_tokens"] == 5
    assert "max_tokens" not in sent[0]
