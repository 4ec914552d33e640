"""Settings of the data: which rows, which column is what, how text becomes tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from leyden.settings.base import Group, Share, Text

NotNegative = Annotated[float, Field(ge=0)]


class Dataset(Group):
    """Where rows come from, which column is what, and how a row is written out as text."""

    format: Literal["columns", "messages", "preferences", "auto"] = Field(
        description="One text per cell; lists of messages; two such lists to compare; or find out from the table."
    )
    messages_column: list[Text] | Text | None = Field(
        description="Column with lists of messages, or several whose lists are joined; only with format=messages."
    )
    train_dataframe: Annotated[list[Text], Field(min_length=1)] | Text = Field(
        description="Table to train on, or several: .csv, .parquet, .jsonl, .txt, a folder, embedded:NAME, hub:NAME."
    )
    train_ratios: list[NotNegative] | None = Field(
        description="Share of each table of a list; null: every row of each is used once."
    )
    validation_dataframe: str | None = Field(description="Held-out table; only with validation_strategy=custom.")
    validation_strategy: Literal["automatic", "custom"] = Field(description="Split the train table, or read a second.")
    validation_size: Share = Field(description="Share of rows (of conversations with parent ids) that is held out.")
    split_seed: Annotated[int, Field(ge=0)] = Field(description="Seed of split and sample, apart from `seed`.")
    data_sample: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Share of the rows to use, after the split; of each part at least ten rows stay."
    )
    data_sample_choice: list[Literal["train", "validation"]] = Field(description="Which parts data_sample thins out.")
    train_validation_data: bool = Field(description="Train on the validation rows too; scores are then optimistic.")
    system_column: str | None = Field(description="System text, taken from the first row of a conversation.")
    prompt_column: list[str] | str = Field(description="What the user says: one column or several, joined in order.")
    prompt_column_separator: str = Field(description="Text between several prompt columns; escapes such as \\n.")
    answer_column: list[Text] | Text = Field(
        description="What the model should say; for pairs the better answer; labels or numbers: one column or several."
    )
    rejected_prompt_column: str | None = Field(description="Pairs only: an own prompt of the worse answer.")
    rejected_answer_column: str | None = Field(description="Pairs only: the worse answer.")
    parent_id_column: str | None = Field(description="Id of the row this row replies to; empty starts a conversation.")
    id_column: str | None = Field(description="Id of the row; needed with parent_id_column.")
    weight_column: str | None = Field(description="Share of each row in the loss, 0 or above; null: all count alike.")
    text_system_start: str = Field(description="Marker before the system text; escapes allowed.")
    text_prompt_start: str = Field(description="Marker before each prompt; escapes allowed; also a stop string.")
    text_answer_separator: str = Field(description="Marker between prompt and answer; escapes allowed; a stop string.")
    add_eos_token_to_system: bool = Field(description="End the system text with the end-of-sequence token.")
    add_eos_token_to_prompt: bool = Field(description="End each prompt with the end-of-sequence token.")
    add_eos_token_to_answer: bool = Field(description="End each answer with it, so that the model learns to stop.")
    limit_chained_samples: bool = Field(description="One sample per whole conversation; false: one per row.")
    group_conversations: bool = Field(
        description="Keep samples of one conversation in one batch, which computes their common turns once."
    )
    mask_prompt_labels: bool = Field(description="Train on answers only; false: on every token.")
    only_last_answer: bool = Field(description="Train on the last answer of a conversation only.")
    chat_template: bool = Field(description="Use the tokenizer's own chat template in place of the text markers.")
    personalize: bool = Field(description="Put the two names below for those of Open Assistant's data in the texts.")
    chatbot_name: Text = Field(description="Name of the assistant; only with personalize.")
    chatbot_author: Text = Field(description="Name of its maker; only with personalize.")

    @property
    def train_tables(self) -> tuple[str, ...]:
        """The tables to train on as a tuple; a bare string is a list of one."""
        return (self.train_dataframe,) if isinstance(self.train_dataframe, str) else tuple(self.train_dataframe)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The prompt columns as a tuple; a bare string is a list of one."""
        return (self.prompt_column,) if isinstance(self.prompt_column, str) else tuple(self.prompt_column)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The answer columns as a tuple; a bare string is a list of one."""
        return (self.answer_column,) if isinstance(self.answer_column, str) else tuple(self.answer_column)


class Tokenizer(Group):
    """How text becomes tokens, and how many of them a sample may have."""

    max_length: Annotated[int, Field(ge=1)] = Field(description="Longest sample, in tokens.")
    add_prompt_answer_tokens: bool = Field(description="Make each text marker a token of its own.")
    padding_quantile: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Width of a training batch among its lengths; 1 cuts nothing, 0 fills up to max_length."
    )
    tokenizer_kwargs: dict[str, Any] = Field(description="Extra arguments of the tokenizer's loader.")
