"""The model card, `README.md` beside the weights."""

from __future__ import annotations

from collections.abc import Mapping

from leyden import __version__
from leyden.problem.base import Problem
from leyden.settings.locations import table_path
from leyden.settings.schema import Settings


def _tables(settings: Settings) -> str:
    return ", ".join(f"`{table_path(name).name}`" for name in settings.dataset.train_tables)


def model_card(
    settings: Settings, problem: Problem, samples: int, results: Mapping[str, object], where: str | None
) -> str:
    """The model card: what was trained on what, how well it does, and how to load it without Leyden.

    Args:
        settings: of the run.
        problem: of the run.
        samples: that were trained on.
        results: of the run.
        where: folder or hub id of the base of an adapter; None for a whole model.
    """
    base = f"\nThe adapter needs its base, which is at `{where}`.\n" if where else ""
    final = results.get("final")
    numbers = "\n".join(f"| {key} | {value} |" for key, value in (final if isinstance(final, dict) else {}).items())
    return f"""---
library_name: {"peft" if where else "transformers"}
base_model: {settings.backbone.name}
tags: [leyden]
---

# {settings.problem.target.rpartition(".")[2]} of {settings.backbone.name}

Fine-tuned with Leyden {__version__} on {_tables(settings)}, \
{samples} samples.
{base}
| result | value |
|---|---|
{numbers}

```python
{_loading(problem, where, grown=settings.tokenizer.add_prompt_answer_tokens)}
{_using(problem)}
```
"""


def _loading(problem: Problem, base: str | None, *, grown: bool) -> str:
    """Lines of Python that load the saved model.

    An adapter with a head takes the head's size from the saved config; where the vocabulary may have grown, its base
    has the old size, and grows as `peft` lets the bases of other adapters.
    """
    head, name = problem.head, problem.head.auto_class.__name__
    peft, classes, load = "", name, f"model = {name}.from_pretrained(folder)"
    if base is not None and head.outputs is None:
        name = f"AutoPeft{name.removeprefix('Auto')}"
        peft, classes, load = f"from peft import {name}\n", "", f"model = {name}.from_pretrained(folder)"
    elif base is not None:
        peft, classes = "from peft import PeftModel\n", f"AutoConfig, {name}"
        old = f", vocab_size=AutoConfig.from_pretrained({base!r}).vocab_size" if grown else ""
        grow = (
            "if len(tokenizer) > config.vocab_size:\n    base.resize_token_embeddings(len(tokenizer))\n"
            if grown
            else ""
        )
        load = (
            f"config = AutoConfig.from_pretrained(folder{old})\n"
            f"base = {name}.from_pretrained({base!r}, config=config)\n"
            f"{grow}model = PeftModel.from_pretrained(base, folder).eval()"
        )
    imported = [
        "AutoTokenizer",
        *filter(None, classes.split(", ")),
        *(["GenerationConfig"] if problem.generates else []),
    ]
    settings = "generation = GenerationConfig.from_pretrained(folder)\n" if problem.generates else ""
    return (
        f'{peft}from transformers import {", ".join(sorted(imported))}\n\nfolder = "."\n'
        f"tokenizer = AutoTokenizer.from_pretrained(folder)\n{settings}{load}"
    )


def _using(problem: Problem) -> str:
    """Lines of Python that answer one text with the loaded model."""
    if problem.head.family == "decoder" and problem.head.outputs is None:
        return """messages = [{"role": "user", "content": "Hello"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**prompt, generation_config=generation)[0]))"""
    lines = """text = "Hello"  # written as in training: see prompt_text in predictions.csv
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
"""
    if problem.head.outputs is None:
        return f"{lines}print(tokenizer.decode(model.generate(**inputs, generation_config=generation)[0]))"
    if problem.head.problem_type == "regression":
        return (
            f"{lines}outputs = model(**inputs).logits[0].tolist()\n"
            "scale = zip(model.config.target_mean, model.config.target_deviation, outputs)\n"
            "print([mean + deviation * output for mean, deviation, output in scale])"
        )
    kind = "softmax(-1)" if problem.head.problem_type == "single_label_classification" else "sigmoid()"
    return f"{lines}print(model.config.id2label, model(**inputs).logits[0].{kind}.tolist())"
