"""What `--help` says: examples, the choices there are, and how to see every setting."""

from __future__ import annotations

import textwrap
from pathlib import Path

from pydantic import BaseModel

from leyden.settings.overrides import choices_of

EXAMPLES = {
    "train": """\
Fine-tune a language model.

  python train.py                                      causal LM on the embedded table
  python train.py problem=dpo backbone=llama           learn to prefer the better of two answers
  python train.py problem=dpo problem/loss=simpo       with another loss
  python train.py dataset=table dataset.train_dataframe=my.csv dataset.prompt_column=question \\
                  dataset.answer_column=answer         on a table of your own (.csv, .parquet, .jsonl)
  python train.py -m lora.r=4,16                       one run per value
  python train.py --config-dir outputs/NAME --config-name config     repeat a run
  python train.py ... --cfg job                        show every setting, and train nothing
""",
    "predict": """\
Predict a table, one prediction per row, in order; or a single prompt; or talk to the model.

  python predict.py run=outputs/NAME dataset.path=new.csv           with a run
  python predict.py run=owner/model dataset.path=new.csv            with a model of the hub, a folder or a .gguf file
  python predict.py run=outputs/NAME prompt="How do I pay?"         its prediction alone on standard output
  python predict.py run=outputs/NAME mode=chat                      a chat in the terminal; /help says what it can
  python predict.py ... --cfg job                                   show every setting, and predict nothing
""",
    "export": """\
Write the model of a run for use elsewhere, and check what was written against what was trained.

  python -m leyden.export run=outputs/NAME                          check the model folder again
  python -m leyden.export run=outputs/NAME merge=true               a whole model in outputs/NAME/merged
  python -m leyden.export run=outputs/NAME merge=true output=FOLDER
""",
}
WIDTH = 120
GROUPS = {
    "problem": "what is learned",
    "problem/loss": "",
    "backbone": "which model; backbone.name takes any hub id, folder or .gguf file",
    "dataset": "which table",
    "lora": "what is trained of the model",
    "optimizer": "",
    "schedule": "learning rate over time",
    "trainer": "where it runs",
    "checkpoint": "what is kept",
    "metric": "what is reported",
    "logger": "where numbers go beside metrics.csv",
    "experiment": "named differences",
    "sweep": "a search over settings: many runs",
}


def help_text(name: str, folder: Path, schema: type[BaseModel]) -> str:
    """The help of an entry file.

    Args:
        name: of its primary config.
        folder: of the config groups.
        schema: of its settings.
    """
    parts = [EXAMPLES[name]]
    if name == "train":
        groups = {group: ", ".join(choices_of([folder], group)) for group in GROUPS}
        parts.append("Choices, as GROUP=NAME; the files are in conf/GROUP:")
        for group, names in groups.items():
            text = f"{names}{_aside(GROUPS[group])}"
            parts.append(textwrap.fill(text, WIDTH, initial_indent=f"  {group:13} ", subsequent_indent=" " * 16))
        parts.append("")
    fields = {key: field for key, field in schema.model_fields.items() if field.description}
    parts.append("Settings of the whole, as KEY=VALUE; those of a group are GROUP.KEY=VALUE:")
    for key, field in fields.items():
        parts.append(
            textwrap.fill(f"{field.description}", WIDTH, initial_indent=f"  {key:17} ", subsequent_indent=" " * 20)
        )
    return "\n".join(parts)


def _aside(text: str) -> str:
    return f"   ({text})" if text else ""
