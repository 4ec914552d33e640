"""What the README says is true: its commands, its lists, its links, its snippet, its tree."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from tests.effects.small_runs import without_pages
from tests.integration.documented_commands import make_tables
from tests.reliability.children import start

from leyden.artifacts.job import run_job
from leyden.settings.command import Entry, check_command
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import read
from leyden.settings.read_export import compose_export, read_export
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import PredictSettings, Settings

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Blocks = Callable[..., list[str]]

TINY = ["backbone=tiny", "tokenizer.max_length=256", "generation.max_length_inference=4", "trainer.progress=none"]
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
TREE_LINE = re.compile(r"^(?P<indent>(?:  )*)(?P<name>\S+)(?: {2,}(?P<words>\S.*))?$")


@pytest.fixture(scope="module")
def readme(documents: dict[str, str]) -> str:
    return documents["README.md"]


# Read by Python before anything else in a process, and in those that it starts: whatever asks for a connection that
# leaves the machine, or for the address of a name, is written down and refused.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        inside = isinstance(address, (str, bytes)) or str(address[0]).startswith("127.") or address[0] in ("::1",)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto"):
        inside = event != "socket.sendto" and arguments[0] in (None, "", "localhost", "127.0.0.1", "::1")
        address = arguments
    else:
        return
    if not inside:
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {address!r}\\n")
        raise OSError(f"{event} {address!r} is not allowed in this test")

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The variables of a process of a user's, who has set nothing for the libraries, and where WATCH writes."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DISABLE_SAFETENSORS_CONVERSION")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    changed = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "WATCHED": str(folder / "asked")}
    kept = {name: value for name, value in os.environ.items() if name not in offline}
    return SimpleNamespace(environment=kept | changed, offline=offline, changed=changed, asked=folder / "asked")


@pytest.fixture(scope="module")
def first_screen(
    commands: list[list[str]], run_cli: Cli, run_here: Cli, watched: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:  # fmt: skip
    """The two commands of the first screen for an own table, as they stand, on the tiny backbone."""
    folder = tmp_path_factory.mktemp("first-screen")
    train = next(command for command in commands if "dataset.train_dataframe=my.csv" in command)
    predict = next(command for command in commands if command[0] == "predict.py")
    assert "run=outputs/mine" in predict
    make_tables(train, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in watched.offline:
            patch.delenv(name, raising=False)
        for name, value in watched.changed.items():
            patch.setenv(name, value)
        trained = run_cli([*train, *TINY], cwd=folder)
    make_tables(predict, folder)
    predicted = run_here(predict, cwd=folder)
    return SimpleNamespace(folder=folder, run=folder / "outputs" / "mine", trained=trained, predicted=predicted)


def test_first_screen_is_enough_to_start(readme: str, first_screen: SimpleNamespace) -> None:
    first = "\n".join(readme.splitlines()[:40])
    for words in ("make train", "make test", "python train.py problem=dpo backbone=llama", "my.csv", "predict.py"):
        assert words in first
    assert first_screen.trained.returncode == 0, first_screen.trained.stderr
    assert first_screen.predicted.returncode == 0, first_screen.predicted.stderr
    predictions = pd.read_csv(first_screen.run / "predictions" / "new" / "predictions.csv")
    assert predictions["question"].tolist() == [f"Question {row}?" for row in range(12)]
    assert {"prompt_text", "target", "prediction"} <= set(predictions.columns)


def test_run_folder_is_the_one_described(readme: str, first_screen: SimpleNamespace) -> None:
    section = readme.split("## What a run leaves behind")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    described = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert described == {path.name for path in first_screen.run.iterdir() if path.name != "predictions"}


@pytest.mark.slow
def test_the_command_asks_for_no_connection_without_any_switch_of_the_libraries(
    first_screen: SimpleNamespace, watched: SimpleNamespace
) -> None:
    """The tests set `HF_HUB_OFFLINE`; the first screen was a process, and those that it started, without."""
    assert first_screen.trained.returncode == 0, first_screen.trained.stderr
    assert not watched.asked.exists(), watched.asked.read_text()
    probe = [sys.executable, "-c", "import socket; socket.getaddrinfo('huggingface.co', 443)"]
    assert subprocess.run(probe, env=watched.environment, capture_output=True, check=False).returncode
    assert watched.asked.read_text().startswith("socket.getaddrinfo"), "nobody watches"


def without_leyden(code: str, folder: Path) -> None:
    """Be a script in a folder; an import of this package fails."""
    os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "leyden"]:
        del sys.modules[name]
    sys.modules["leyden"] = None  # type: ignore[assignment]
    warnings.resetwarnings()
    warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_model_loads_without_leyden(readme: str, code_blocks: Blocks, first_screen: SimpleNamespace) -> None:
    """In a forked process; test_train.py loads such a model in one that has never had this package."""
    (snippet,) = [code for code in code_blocks(readme, "python") if "AutoPeftModelForCausalLM" in code]
    assert "outputs/NAME/model" in snippet
    code = snippet.replace("outputs/NAME", "outputs/mine")
    end = start(lambda: without_leyden(code, first_screen.folder), first_screen.folder.parent / "snippet.log").wait()
    assert end.code == 0, end.said


def test_every_command_is_accepted(
    commands: list[list[str]], first_screen: SimpleNamespace, project_root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    known = {tuple(command): command for command in commands if command[0] in {"train.py", "predict.py"}}.values()
    assert len(known) > 40
    for name in {name for words in known for name in re.findall(r"(?<!\S)\S*outputs/(\w[\w-]*)", " ".join(words))}:
        shutil.copytree(first_screen.run, tmp_path / "outputs" / name)
    monkeypatch.chdir(tmp_path)
    entries = {
        "train.py": Entry("train", project_root / "conf", Settings, read),
        "predict.py": Entry("predict", project_root / "conf", PredictSettings, read_predict),
    }
    for script, *arguments in known:
        make_tables(arguments, tmp_path)
        try:
            check_command(get_args_parser().parse_args(arguments), entries[script])
        except ConfigError as error:
            pytest.fail(f"{script} {' '.join(arguments)}\n{error}")


def test_every_export_is_accepted(
    documents: dict[str, str], code_blocks: Blocks, first_screen: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(first_screen.run, tmp_path / "outputs" / "NAME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # a machine with a network, a token and the converter
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    (tmp_path / "convert_hf_to_gguf.py").touch()
    lines = [line for text in documents.values() for block in code_blocks(text) for line in block.splitlines()]
    exports = [line for line in lines if line.startswith("python -m leyden.export ")]
    assert len(exports) >= 4
    for line in exports:
        name = re.findall(r"run=outputs/([\w-]+)", line)[0]
        shutil.copytree(first_screen.run, tmp_path / "outputs" / name, dirs_exist_ok=True)
        wanted, _, folder = read_export(compose_export(shlex.split(line, comments=True)[3:]))
        assert folder == Path("outputs", name)
        assert wanted.merge is ("merge=true" in line)


def test_a_sweep_without_a_name_goes_where_it_is_said_to(readme: str, project_root: Path) -> None:
    assert "`outputs/sweep-TIME/0`" in readme
    with initialize_config_dir(str(project_root / "conf"), version_base="1.3"):
        folder = compose("train", ["lora.r=4"], return_hydra_config=True).hydra.sweep.dir
    assert re.fullmatch(r"outputs/sweep-\d{8}-\d{6}", folder)


def test_a_command_with_a_fault_is_not_accepted(project_root: Path) -> None:
    arguments = get_args_parser().parse_args(["lora.rank=8"])
    with pytest.raises(ConfigError, match=r"lora\.rank"):
        check_command(arguments, Entry("train", project_root / "conf", Settings, read))


def test_the_error_shown_is_the_error_given(readme: str, code_blocks: Blocks, run_cli: Cli) -> None:
    (block,) = code_blocks(readme, "console")
    prompt, _, shown = block.partition("\n")
    done = run_cli(shlex.split(prompt.removeprefix("$ python ")))
    assert done.returncode == 2
    assert done.stderr == shown


def test_groups_and_choices_are_those_of_conf(readme: str, project_root: Path) -> None:
    section = readme.split("## How a command is put together")[1].split("```")[0]
    rows = [row.split("|")[1:3] for row in section.splitlines() if row.startswith("| `")]
    described = {
        re.findall(r"`([^`]+)`", group)[0]: set(re.findall(r"`([^`=]+)`", re.sub(r"for `\w+`", "", choices)))
        for group, choices in rows
    }  # fmt: skip
    conf = project_root / "conf"
    there: dict[str, set[str]] = {}
    for file in conf.rglob("*.yaml"):
        group = file.parent.relative_to(conf).as_posix()
        if group not in (".", "dataset/columns") and not file.stem.startswith("_"):
            there.setdefault(group, set()).add(file.stem)
    assert described == there


def test_make_targets_exist(documents: dict[str, str], project_root: Path) -> None:
    makefile = (project_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    code = "\n".join(re.findall(r"`+[^`]+`+", "\n".join(documents.values())))
    named = set(re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z]+)\b", code))
    assert {"train", "test", "check"} <= named
    assert named <= targets


def test_links_lead_somewhere(documents: dict[str, str], project_root: Path) -> None:
    links = [(name, link) for name, text in documents.items() for link in LINK.findall(text)]
    local = [(name, link) for name, link in links if "://" not in link]
    assert len(local) > 10
    for name, link in local:
        path, _, anchor = link.partition("#")
        target = (project_root / name).parent / path if path else project_root / name
        assert target.exists(), f"{name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{name} links to {link}"


def test_nothing_is_left_open(documents: dict[str, str]) -> None:
    for name, text in documents.items():
        assert not re.search(r"\bNN\b|\bTODO\b|\bTBD\b", text), name
        starts, ends = text.count("<!-- measured: start -->"), text.count("<!-- measured: end -->")
        assert starts == ends <= 1, name


def tree_of(text: str) -> dict[str, str]:
    """Path to words of every line of the README's tree; folders end with a slash."""
    block = text.split("## The tree")[1].split("```\n")[1]
    folders: list[str] = []
    tree: dict[str, str] = {}
    for line in block.splitlines():
        match = TREE_LINE.match(line)
        assert match, f"no line of a tree: {line!r}"
        folders = folders[: len(match["indent"]) // 2]
        tree["".join([*folders, match["name"]])] = match["words"] or ""
        if match["name"].endswith("/"):
            folders.append(match["name"])
    return tree


def test_tree_is_the_one_on_disk(readme: str, project_root: Path) -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=project_root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    there = {name for name in done.stdout.split("\0") if name and (project_root / name).is_file()}
    tree = tree_of(readme)
    shown = {path for path in tree if not path.endswith("/")}
    assert shown == there, f"add to the README's tree: {sorted(there - shown)}; remove: {sorted(shown - there)}"
    silent = [path for path in shown if not tree[path]]
    assert not silent, f"no words about {silent}"
    assert max(len(line) for line in readme.split("## The tree")[1].splitlines()) <= 120


def test_the_tree_is_read_as_it_is_drawn() -> None:
    text = "## The tree\n\n```\na.py  one\nb/\n  c/    two\n    d.py  three\n  e.py  four\n```\n"
    assert tree_of(text) == {"a.py": "one", "b/": "", "b/c/": "two", "b/c/d.py": "three", "b/e.py": "four"}


def recipes(root: Path) -> list[str]:
    return sorted(file.stem for file in (root / "conf" / "experiment").glob("*.yaml"))


RECIPES = recipes(Path(__file__).resolve().parents[2])


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_and_holds_differences_only(
    name: str, project_root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    conf = project_root / "conf"
    table = yaml.safe_load((conf / "experiment" / f"{name}.yaml").read_text()).get("dataset", {}).get("train_dataframe")
    data = [f"dataset.train_dataframe={request.getfixturevalue('shared_data') / table}"] if table else []
    small = [
        *TINY, *data, "checkpoint.verify=false", "trainer.evaluate_before_training=false",
        f"dataset.data_sample={0.02 if table else 0.05}", "dataset.data_sample_choice=[train,validation]",
        f"output_directory={tmp_path}", "experiment_name=run",
    ]  # fmt: skip
    config, faults = compose_config("train", [f"experiment={name}", *small], conf)
    assert config is not None
    assert not faults
    with without_pages():
        run_job(read(config))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["final"]["step"] > 0

    recipe = (conf / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    groups = [f"{group}={choice}" for group, choice in re.findall(r"- override /(\S+): (.+)", recipe)]
    plain, _ = compose_config("train", [*groups, "backbone=tiny"], conf)
    chosen, _ = compose_config("train", [f"experiment={name}", "backbone=tiny"], conf)
    assert plain is not None
    assert chosen is not None
    keys = [line.strip().partition(":")[0] for line in recipe.splitlines() if re.match(r"\s+\w+: \S", line)]
    values, before = leaves(chosen), leaves(plain)
    changed = {key for key, value in values.items() if before.get(key) != value}
    assert sorted(key.rpartition(".")[2] for key in changed) == sorted(keys)


def leaves(config: object, prefix: str = "") -> dict[str, object]:
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, dict):
        return {prefix: config}
    return {key: value for name, inner in config.items() for key, value in leaves(inner, f"{prefix}.{name}").items()}
