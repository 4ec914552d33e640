"""The part of a model card that loads the model: lines of Python, and commands of servers."""

from __future__ import annotations

from leyden.problem.base import Problem
from leyden.settings.schema import Settings


def loading(settings: Settings, problem: Problem, base: str | None) -> str:
    """Lines of Python that load the saved model and answer one text with it; transformers and peft are enough."""
    grown = settings.tokenizer.add_prompt_answer_tokens
    return f"{_load(problem, base, grown=grown)}\n{_use(problem, chat=bool(settings.dataset.prompt_columns))}"


def servers(problem: Problem, base: str | None, gguf: str | None) -> str:
    """What is certain of the servers that people have."""
    if gguf is not None:
        return (
            f"`llama-server -m {gguf} --jinja` and `llama-cli -m {gguf} --jinja` of llama.cpp use the chat template "
            f"inside the file. For Ollama write `FROM ./{gguf}` into a Modelfile and call `ollama create`; its "
            "templates are of another kind, so check that it writes prompts as above.\n\nThe weights were compared "
            "with those that were trained, by the reader of `transformers`. Tokens were not: llama.cpp cuts texts up "
            "with code of its own."
        )
    if problem.head.outputs is not None or problem.head.family != "decoder":
        return ""
    if base is not None:
        return (
            "Servers that load an adapter beside its base take the chat template of the base, which may be another "
            "one. Merge it first, with `python -m leyden.export run=outputs/NAME merge=true`."
        )
    return "`vllm serve .` in this folder serves it with its chat template, where vLLM knows the architecture."


def _load(problem: Problem, base: str | None, *, grown: bool) -> str:
    """Lines that load.

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


def _use(problem: Problem, *, chat: bool) -> str:
    """Lines that answer one text.

    Args:
        problem: of the run.
        chat: whether texts are written as conversations; else they are plain.
    """
    lines = """messages = [{"role": "user", "content": "Hello"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
    if not chat:
        lines = 'inputs = tokenizer("Hello", add_special_tokens=False, return_tensors="pt")\n'
    if problem.head.outputs is None:
        start = 'inputs["input_ids"].shape[1]' if problem.head.family == "decoder" else "0"
        return (
            f"{lines}answer = model.generate(**inputs, generation_config=generation)[0, {start}:]\n"
            "print(tokenizer.decode(answer, skip_special_tokens=True))"
        )
    if problem.head.problem_type == "regression":
        return (
            f"{lines}outputs = model(**inputs).logits[0].tolist()\n"
            "scale = zip(model.config.target_mean, model.config.target_deviation, outputs)\n"
            "print([mean + deviation * output for mean, deviation, output in scale])"
        )
    kind = "softmax(-1)" if problem.head.problem_type == "single_label_classification" else "sigmoid()"
    return f"{lines}print(model.config.id2label, model(**inputs).logits[0].{kind}.tolist())"
