"""What requests and answers of the interface hold; its OpenAPI description is made of these classes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

_ROW: dict[str, Any] = {
    "type": "object",
    "description": "A text for each column of the row's task, and in `task` its name where the request has none.",
}
_ROWS: dict[str, Any] = {"anyOf": [_ROW, {"type": "array", "items": _ROW, "minItems": 1}]}
_EXAMPLE: JsonDict = {"task": "mini_sst2", "rows": [{"sentence1": "the film was a joy"}], "scores": True}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Predict(_Asked):
    """Rows to answer. Without `task` each names its own in `task`, unless only one is served."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    rows: Annotated[Any, WithJsonSchema(_ROWS)]
    task: str | None = None
    scores: bool = False


class Artifact(_Asked):
    """Where the prompt of a task lies: a run folder (with `run`, where several of its runs have the task), a run's
    prompts, a store, an export or a PEFT adapter, by its path below the folder of artifacts.
    """

    path: str = Field(min_length=1)
    run: str | None = None


class OneAnswer(BaseModel):
    """The answer to a row: `text` is what the trunk wrote, `label` the label that this stands for; where it is none,
    the most likely label if scores were asked for, and null if not.
    """

    task: str
    label: str | float | None
    text: str
    scores: dict[str, float] | None


class Predicted(BaseModel):
    """The answers in the rows' order, and how long they took, waiting included."""

    answers: list[OneAnswer]
    milliseconds: float


class ServedTask(BaseModel):
    """A task that is served: the columns of its rows, its labels and what the trunk writes for each, the tokens of its
    prompt, and where that was read.
    """

    name: str
    columns: list[str]
    labels: list[str]
    written: list[str]
    prompt_length: int
    where: str


class Tasks(BaseModel):
    """The trunk, and all tasks that are served."""

    trunk: str
    tasks: list[ServedTask]


class State(BaseModel):
    """How the server is."""

    status: str


class Problem(BaseModel):
    """What was wrong with a request."""

    error: str
