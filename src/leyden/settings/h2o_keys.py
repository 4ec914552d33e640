"""Every key of H2O LLM Studio's experiment files, up to its version 1.14.9, and what becomes of it here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.settings import h2o_conditions as when
from leyden.settings import h2o_rules as rules
from leyden.settings import h2o_values as read
from leyden.settings.h2o_rules import CHAT, TEXTS, Row

DPO = frozenset({"dpo"})
CLASSES = frozenset({"classification"})
REMOTE = "true is H2O's default; Leyden runs no code of a checkpoint unless you set backbone.trust_remote_code=true"
PARTS = "H2O has dropped it; the limit is that of the whole sample, tokenizer.max_length"
PPO = "it belongs to reinforcement learning with a reward model, which H2O has dropped"
NETWORK = "it asks a judge over the network; metric=perplexity needs neither network nor key"
TALK = "training does not read it; give it to predict.py with mode=chat, as generation.num_history"
BENCH = "H2O put 80 questions of its own in the place of the validation rows; Leyden judges your rows"
PPO_KEYS = (
    "use_rlhf reward_model rollout_steps adaptive_kl_control full_kl_penalty initial_kl_coefficient kl_target "
    "kl_horizon advantages_gamma advantages_lambda ppo_clip_policy ppo_clip_value scaling_factor_value_loss "
    "ppo_epochs ppo_batch_size ppo_generate_temperature offload_reward_model"
)

_ROOT = (
    Row("experiment_name", "G4", read.name, "experiment_name"),
    Row("llm_backbone", "G5", read.name, "backbone.name"),
    Row("output_directory", "X1", read.name, "output_directory", derive=rules.runs_folder),
)
_DATASET = (
    Row("dataset.train_dataframe", "D1", read.name, "dataset.train_dataframe"),
    Row("dataset.validation_strategy", "D2", read.one_of("automatic", "custom"), "dataset.validation_strategy"),
    Row("dataset.validation_dataframe", "X2", read.name, "dataset.validation_dataframe",
        needs=(when.CUSTOM,), off=None),
    Row("dataset.validation_size", "D3", read.number, "dataset.validation_size", needs=(when.SPLIT,)),
    Row("dataset.data_sample", "D4", read.number, "dataset.data_sample"),
    Row("dataset.data_sample_choice", "X3", read.some_of("Train", "Validation"), "dataset.data_sample_choice",
        needs=(when.SAMPLED,)),
    Row("dataset.system_column", "D5", read.name, "dataset.system_column", problems=TEXTS, off=None),
    Row("dataset.prompt_column", "D6", read.columns, "dataset.prompt_column"),
    Row("dataset.prompt_column_separator", "D7", read.marker, "dataset.prompt_column_separator"),
    Row("dataset.answer_column", "D8", read.columns, "dataset.answer_column"),
    Row("dataset.rejected_prompt_column", "X12", read.name, "dataset.rejected_prompt_column", problems=DPO, off=None),
    Row("dataset.rejected_answer_column", "X13", read.name, "dataset.rejected_answer_column", problems=DPO, off=None),
    Row("dataset.parent_id_column", "D9", read.name, "dataset.parent_id_column", problems=TEXTS, off=None),
    Row("dataset.id_column", "X4", read.name, "dataset.id_column", problems=TEXTS, needs=(when.CHAINS,), off=None),
    Row("dataset.text_system_start", "X5", read.marker, "dataset.text_system_start", problems=TEXTS,
        needs=(when.SYSTEM,)),
    Row("dataset.text_prompt_start", "D10", read.marker, "dataset.text_prompt_start"),
    Row("dataset.text_answer_separator", "D11", read.marker, "dataset.text_answer_separator"),
    Row("dataset.add_eos_token_to_system", "X6", read.flag, "dataset.add_eos_token_to_system", problems=TEXTS,
        needs=(when.SYSTEM,)),
    Row("dataset.add_eos_token_to_prompt", "D12", read.flag, "dataset.add_eos_token_to_prompt"),
    Row("dataset.add_eos_token_to_answer", "D13", read.flag, "dataset.add_eos_token_to_answer", problems=TEXTS),
    Row("dataset.limit_chained_samples", "X7", read.flag, "dataset.limit_chained_samples", problems=TEXTS - DPO,
        needs=(when.CHAINS,)),
    Row("dataset.mask_prompt_labels", "D14", read.flag, "dataset.mask_prompt_labels", problems=CHAT),
    Row("dataset.only_last_answer", "X8", read.flag, "dataset.only_last_answer", problems=CHAT,
        needs=(when.CHAINS, when.MASKED)),
    Row("dataset.num_classes", "D15", read.whole, "problem.num_classes", problems=CLASSES),
    Row("dataset.personalize", "X9", read.flag, "dataset.personalize", problems=TEXTS, off=False),
    Row("dataset.chatbot_name", "X10", read.text, "dataset.chatbot_name", problems=TEXTS, needs=(when.PERSONAL,)),
    Row("dataset.chatbot_author", "X11", read.text, "dataset.chatbot_author", problems=TEXTS, needs=(when.PERSONAL,)),
    Row("dataset.add_prompt_answer_tokens", "old", read.flag, off=False,
        why="H2O reads the key of that name in `tokenizer`"),
)  # fmt: skip
_TOKENIZER = (
    Row("tokenizer.max_length", "T1", read.whole, "tokenizer.max_length"),
    Row("tokenizer.add_prompt_answer_tokens", "T2", read.flag, "tokenizer.add_prompt_answer_tokens", off=False),
    Row("tokenizer.padding_quantile", "T3", read.number, "tokenizer.padding_quantile", off=1),
    Row(
        "tokenizer.tokenizer_kwargs", "X15", read.group, "tokenizer.tokenizer_kwargs", derive=rules.tokenizer_arguments
    ),
    Row("tokenizer.use_fast", "old", read.flag, "tokenizer.tokenizer_kwargs", derive=rules.tokenizer_arguments),
    Row("tokenizer.add_prefix_space", "old", read.flag, "tokenizer.tokenizer_kwargs", derive=rules.tokenizer_arguments),
    Row("tokenizer.max_length_prompt", "old", read.whole, why=PARTS),
    Row("tokenizer.max_length_answer", "old", read.whole, why=PARTS),
)
_ARCHITECTURE = (
    Row("architecture.backbone_dtype", "A1", read.one_of("float32", "bfloat16", "float16", "int8", "int4"),
        "backbone.dtype", closed=True),
    Row("architecture.gradient_checkpointing", "A2", read.flag, "backbone.gradient_checkpointing"),
    Row("architecture.intermediate_dropout", "A3", read.number, "backbone.intermediate_dropout", off=0),
    Row("architecture.pretrained_weights", "A4", read.name, "backbone.pretrained_weights", off=None),
    Row("architecture.pretrained", "X14", read.flag, "backbone.pretrained", off=True),
    Row("architecture.force_embedding_gradients", "old", read.flag, "lora.unfreeze_layers",
        needs=(when.ADAPTED,), off=False, derive=rules.unfrozen),
)  # fmt: skip
_TRAINING = (
    Row("training.loss_function", "R1", read.text, "problem/loss",
        pick=rules.loss),
    Row("training.beta", "X18", read.number, "problem.loss.beta", problems=DPO),
    Row("training.simpo_gamma", "X19", read.number, "problem.loss.gamma", problems=DPO, needs=(when.SIMPO,)),
    Row("training.optimizer", "R2", read.one_of(*rules.OPTIMIZERS), "optimizer",
        pick=lambda v, _: (rules.OPTIMIZERS[v["training.optimizer"]],)),
    Row("training.learning_rate", "R3", read.number, "optimizer.learning_rate"),
    Row("training.weight_decay", "R12", read.number, "optimizer.weight_decay"),
    Row("training.differential_learning_rate_layers", "R4", read.names, "optimizer.differential_learning_rate_layers",
        off=[]),
    Row("training.differential_learning_rate", "X16", read.number, "optimizer.differential_learning_rate",
        needs=(when.LAYERS,)),
    Row("training.freeze_layers", "R5", read.names, "backbone.freeze_layers", needs=(when.UNADAPTED,), off=[]),
    Row("training.attention_implementation", "R6", read.one_of("auto", "eager", "sdpa", "flash_attention_2"),
        "backbone.attention_implementation", derive=rules.attention, closed=True),
    Row("training.use_flash_attention_2", "old", read.flag, "backbone.attention_implementation",
        derive=rules.attention, off=False),
    Row("training.batch_size", "R7", read.whole, "trainer.batch_size"),
    Row("training.epochs", "R8", read.whole, "trainer.epochs"),
    Row("training.grad_accumulation", "R14", read.whole, "trainer.grad_accumulation"),
    Row("training.gradient_clip", "R13", read.number, "trainer.gradient_clip"),
    Row("training.drop_last_batch", "X17", read.flag, "trainer.drop_last_batch"),
    Row("training.evaluation_epochs", "R24", read.number, "trainer.evaluation_epochs"),
    Row("training.evaluate_before_training", "R25", read.flag, "trainer.evaluate_before_training"),
    Row("training.train_validation_data", "R26", read.flag, "dataset.train_validation_data", off=False),
    Row("training.schedule", "R9", read.one_of("Cosine", "Linear", "Constant"), "schedule",
        pick=lambda v, _: (v["training.schedule"].lower(),)),
    Row("training.min_learning_rate_ratio", "R10", read.number, "schedule.min_learning_rate_ratio",
        needs=(when.CURVED,), off=0),
    Row("training.warmup_epochs", "R11", read.number, "schedule.warmup_epochs"),
    Row("training.lora", "R15", read.flag, "lora", pick=rules.adapter),
    Row("training.use_dora", "R16", read.flag, "lora.use_dora", needs=(when.ADAPTED,), off=False),
    Row("training.lora_r", "R17", read.whole, "lora.r", needs=(when.ADAPTED,)),
    Row("training.lora_alpha", "R18", read.number, "lora.alpha", needs=(when.ADAPTED,)),
    Row("training.lora_dropout", "R19", read.number, "lora.dropout", needs=(when.ADAPTED,)),
    Row("training.use_rslora", "R20", read.flag, "lora.use_rslora", needs=(when.ADAPTED,), off=False),
    Row("training.lora_target_modules", "R21", read.listed, "lora.target_modules", needs=(when.ADAPTED,),
        derive=lambda v: v["training.lora_target_modules"] or None),
    Row("training.lora_unfreeze_layers", "R22", read.names, "lora.unfreeze_layers", needs=(when.ADAPTED,), off=[],
        derive=rules.unfrozen),
    Row("training.save_best_checkpoint", "old", read.flag, "checkpoint",
        pick=lambda v, _: ("best" if v["training.save_best_checkpoint"] else "last",)),
    Row("training.save_checkpoint", "R23", read.one_of("last", "best", "each_evaluation_epoch", "disable"),
        "checkpoint", pick=lambda v, _: (v["training.save_checkpoint"],)),
    *(Row(f"training.{key}", "old", read.text, why=PPO) for key in PPO_KEYS.split()),
)  # fmt: skip
_AUGMENTATION = (
    Row("augmentation.token_mask_probability", "U1", read.number, "augmentation.token_mask_probability", off=0),
    Row("augmentation.skip_parent_probability", "U2", read.number, "augmentation.skip_parent_probability",
        problems=TEXTS, needs=(when.CHAINS,), off=0),
    Row("augmentation.random_parent_probability", "U3", read.number, "augmentation.random_parent_probability",
        problems=TEXTS, off=0),
    Row("augmentation.neftune_noise_alpha", "U4", read.number, "augmentation.neftune_noise_alpha", off=0),
)  # fmt: skip
_PREDICTION = (
    Row("prediction.metric", "P1", read.text, "metric", remarks={"GPT": NETWORK, "GPT3.5": NETWORK, "GPT4": NETWORK},
        pick=rules.metric),
    Row("prediction.metric_gpt_model", "P2", read.text, "metric.gpt.model", problems=TEXTS, needs=(when.JUDGED,)),
    Row("prediction.metric_gpt_template", "P3", read.text, "metric.gpt.template", problems=TEXTS, needs=(when.JUDGED,),
        derive=rules.template, remarks={"mt-bench": BENCH}),
    Row("prediction.batch_size_inference", "P6", read.whole, "generation.batch_size_inference"),
    *(Row(f"prediction.{key}", spec, reader, f"generation.{key}", problems=TEXTS)
      for key, spec, reader in (
          ("min_length_inference", "P4", read.whole), ("max_length_inference", "P5", read.whole),
          ("do_sample", "P7", read.flag), ("num_beams", "P8", read.whole), ("repetition_penalty", "P10", read.number),
          ("stop_tokens", "P11", read.stop_strings), ("max_time", "X21", read.number))),
    Row("prediction.num_history", "X22", read.whole, problems=TEXTS, why=TALK),
    *(Row(f"prediction.{key}", spec, reader, f"generation.{key}", problems=TEXTS, needs=(when.SAMPLING,))
      for key, spec, reader in (
          ("temperature", "P9", read.number), ("top_k", "P12", read.whole), ("top_p", "P13", read.number))),
)  # fmt: skip
_ENVIRONMENT = (
    Row("environment.gpus", "E1", read.devices, "trainer", pick=rules.trainer),
    Row("environment.gpus", "E1", read.devices, "trainer.devices", derive=rules.devices),
    Row("environment.mixed_precision", "E2", read.flag, "trainer.precision", derive=rules.precision),
    Row("environment.mixed_precision_dtype", "X20", read.one_of("bfloat16", "float16"), "trainer.precision",
        derive=rules.precision, needs=(when.MIXED,)),
    Row("environment.compile_model", "E3", read.flag, "backbone.compile", off=False),
    Row("environment.find_unused_parameters", "E4", read.flag, "trainer.find_unused_parameters", needs=(when.SEVERAL,),
        off=False),
    Row("environment.trust_remote_code", "E5", read.flag, off=False, why=REMOTE),
    Row("environment.huggingface_branch", "E6", read.branch, "backbone.revision", off=None),
    Row("environment.number_of_workers", "E7", read.whole, "trainer.number_of_workers"),
    Row("environment.seed", "E8", read.whole, "seed"),
    Row("environment.use_deepspeed", "X23", read.sharding, "trainer", needs=(when.DEEPSPEED,), off=False,
        pick=rules.sharded),
    Row("environment.deepspeed_method", "X24", read.one_of("ZeRO2", "ZeRO3"), "trainer", needs=(when.DEEPSPEED,),
        pick=rules.sharded),
    *(Row(f"environment.deepspeed_{key}", spec, reader, f"trainer.deepspeed.{key}", needs=(when.DEEPSPEED, *stage))
      for key, spec, reader, stage in (
          ("allgather_bucket_size", "X25", read.whole, (when.ZERO2,)), ("reduce_bucket_size", "X26", read.whole, ()),
          ("stage3_prefetch_bucket_size", "X27", read.whole, (when.ZERO3,)),
          ("stage3_param_persistence_threshold", "X28", read.whole, (when.ZERO3,)),
          ("offload_optimizer", "X29", read.flag, ()),
          ("stage3_max_live_parameters", "X29", read.whole, (when.ZERO3,)),
          ("stage3_max_reuse_distance", "X29", read.whole, (when.ZERO3,)))),
    Row("environment.use_fsdp", "old", read.flag, "trainer", needs=(when.FSDP,), off=False, pick=lambda *_: ("fsdp",)),
)  # fmt: skip
_LOGGING = (
    Row("logging.log_step_size", "L1", read.one_of("absolute", "relative"), "log_step_size",
        needs=(when.TRACKED,), off="absolute"),
    Row("logging.log_all_ranks", "L2", read.flag, "log_all_ranks", needs=(when.SEVERAL,), off=False),
    Row("logging.logger", "L3", read.one_of(*rules.LOGGERS), "logger", off="None",
        pick=lambda v, _: (rules.LOGGERS[v["logging.logger"]],)),
    Row("logging.neptune_project", "L4", read.name, "logger.neptune.project", needs=(when.NEPTUNE,), off=None),
    Row("logging.wandb_project", "L5", read.name, "logger.wandb.project", needs=(when.WANDB,), off=None),
    Row("logging.wandb_entity", "L6", read.name, "logger.wandb.entity", needs=(when.WANDB,), off=None),
    Row("logging._neptune_debug", "X30", read.flag, "logger.neptune.mode", needs=(when.NEPTUNE,), off=False,
        derive=lambda v: "debug" if v["logging._neptune_debug"] else "online"),
    Row("logging.number_of_texts", "old", read.whole, why="H2O has dropped it; the predictions table holds every row"),
)  # fmt: skip

SECTIONS = ("dataset", "tokenizer", "architecture", "training", "augmentation", "prediction", "environment", "logging")
TABLE: tuple[Row, ...] = (
    *_ROOT, *_DATASET, *_TOKENIZER, *_ARCHITECTURE, *_TRAINING, *_AUGMENTATION, *_PREDICTION, *_ENVIRONMENT,
    *_LOGGING, Row("reward_model", "old", read.text, why=PPO),
)  # fmt: skip


def filled(values: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """What H2O takes for keys that a file lacks and without which the experiment would read or learn something else.

    Args:
        values: of the file.
        problem: ours.
    """
    plain = problem not in TEXTS
    found: dict[str, Any] = {
        "dataset.prompt_column": ["instruction", "input"],
        "dataset.answer_column": "label" if plain else "chosen_response" if problem == "dpo" else "output",
        "dataset.validation_size": 0.01,
    }
    if plain:
        found["training.differential_learning_rate_layers"] = [f"{problem}_head"]
    if problem == "dpo":
        found["dataset.rejected_answer_column"] = "rejected_response"
    if values.get("dataset.parent_id_column"):
        found |= {"dataset.id_column": "id", "dataset.limit_chained_samples": False}
    judges = {"GPT": "gpt-3.5-turbo-0301", "GPT3.5": "gpt-3.5-turbo", "GPT4": "gpt-4"}
    if judge := judges.get(values.get("prediction.metric", "")):
        found["prediction.metric_gpt_model"] = judge
    return {key: value for key, value in found.items() if key not in values}
