"""The rows of each case: the first of a public table that fit the rule, or of the embedded helpdesk table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from benchmarks.cases import Case
from benchmarks.options import ROOT

EMBEDDED = ROOT / "src" / "leyden" / "data" / "embedded" / "helpdesk.csv"
LONG_TURNS = 3
LONG_CHARACTERS = 6000
HELD_OUT = 2
ONE_TURN = ("dataset.prompt_column=instruction", "dataset.system_column=system", "dataset.answer_column=chosen")
REJECTED = "dataset.rejected_answer_column=rejected"
ALPACA = ("dataset.prompt_column=[instruction,input]", "dataset.answer_column=output")
SPAM = ("dataset.prompt_column=text", "dataset.answer_column=spam")
HELPDESK = ("dataset.prompt_column=message", "dataset.answer_column=good_reply")
PUBLIC: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sft": ("sft_alpaca_en.csv", ALPACA),
    "dpo": ("dpo_pairs_en.csv", (*ONE_TURN, REJECTED)),
    "dpo_long": ("dpo_chains_en.parquet", (*ONE_TURN, REJECTED)),
    "chained": ("dpo_chains_en.parquet", ONE_TURN),
    "classification": ("sms_spam.csv", SPAM),
}
OWN: Mapping[str, tuple[str, ...]] = {
    "sft": HELPDESK,
    "dpo": (*HELPDESK, "dataset.rejected_answer_column=poor_reply"),
    "dpo_long": (*HELPDESK, "dataset.rejected_answer_column=poor_reply"),
    "chained": HELPDESK,
    "classification": ("dataset.prompt_column=message", "dataset.answer_column=upset"),
}


def write_tables(case: Case, data: Path, folder: Path, scale: float = 1.0) -> tuple[tuple[Path, Path], tuple[str, ...]]:
    """Write a case's rows to train on and the two to evaluate.

    Args:
        case: the work.
        data: folder of the public tables; the helpdesk table is used where it is not there.
        folder: of the two files, which is made.
        scale: share of the rows.

    Returns:
        Paths of both files, and the settings that name their columns.
    """
    name = case.name.removesuffix("_bf16")
    public = data.is_dir()
    frame = _read(data / PUBLIC[name][0] if public else EMBEDDED)
    count = max(1, round(case.rows * scale))
    train, rest = CHOICES[name](frame, count) if public or name in ("dpo_long", "chained") else _first(frame, count)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.csv", folder / "validation.csv"
    for path, rows in zip(paths, (train, rest), strict=True):
        rows.to_csv(path, index=False)
    return paths, PUBLIC[name][1] if public else OWN[name]


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path).fillna("")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _first(frame: pd.DataFrame, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first rows that start a conversation, if there are conversations; then the two that follow."""
    alone = frame[frame["parent_id"] == ""] if "parent_id" in frame else frame
    return alone[:count], alone[count : count + HELD_OUT]


def _spam(frame: pd.DataFrame, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first rows; to evaluate, the first row of each class behind them."""
    return frame[:count], frame[count:].drop_duplicates("spam")


def _conversations(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The chains of rows from a root to each row that nobody answers, in file order."""
    rows = frame.set_index("id", drop=False)
    parents = dict(zip(frame["id"], frame["parent_id"], strict=True))
    found = []
    for leaf in frame.loc[~frame["id"].isin(frame["parent_id"]), "id"]:
        chain = [leaf]
        while parents[chain[0]]:
            chain.insert(0, parents[chain[0]])
        found.append(rows.loc[chain])
    return found


def _chosen(frame: pd.DataFrame, count: int, fits: Callable[[pd.DataFrame], bool]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first conversations that fit, whole; to evaluate, the first that have one row."""
    chains = _conversations(frame)
    long = [chain for chain in chains if len(chain) >= LONG_TURNS and fits(chain)][:count]
    short = [chain for chain in chains if len(chain) == 1][:HELD_OUT]
    return pd.concat(long), pd.concat(short)


def _long_pairs(frame: pd.DataFrame, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Conversations whose history is at least as long as both last answers together."""

    def fits(chain: pd.DataFrame) -> bool:
        if "chosen" not in chain:
            return True
        last = chain.iloc[-1]
        history = len(_text(chain)) - len(last["chosen"])
        answers = len(last["chosen"]), len(last["rejected"])
        return history >= sum(answers) and history + max(answers) <= LONG_CHARACTERS

    return _chosen(frame, count, fits)


def _chains(frame: pd.DataFrame, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Conversations of several turns."""
    return _chosen(frame, count, lambda chain: len(_text(chain)) <= LONG_CHARACTERS)


def _text(chain: pd.DataFrame) -> str:
    names = [name for name in ("instruction", "chosen", "message", "good_reply") if name in chain]
    return "".join(chain[names].to_numpy().ravel())


CHOICES: Mapping[str, Callable[[pd.DataFrame, int], tuple[pd.DataFrame, pd.DataFrame]]] = {
    "sft": _first,
    "dpo": _first,
    "dpo_long": _long_pairs,
    "chained": _chains,
    "classification": _spam,
}
