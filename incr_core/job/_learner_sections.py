"""The sections of a job file about the update rule: [model] and [learner]."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from incr_core.job._field_types import Size
from incr_core.job._section import Named, Section
from incr_core.learner import MOST_PASSES

__all__ = ["BalanceSection", "GroupSection", "HeadSection", "LearnerSection", "ModelSection"]


class ModelSection(Section):
    """The model: the built-in one for tables, or the result of a factory. `adapt` changes it before it learns."""

    kind: Literal["mlp", "auto", "factorisation", "two_towers"] = "mlp"
    """The built-in model for tables. `"mlp"`: one network. `"auto"`: [experts side by side](#experts-side-by-side),
    for `binary`, `multiclass` (with `capacity` too) and `regression`; not beside `factory`, `inputs`, `adapt` and
    `features.ranges`. `"factorisation"`: [biases and factors of ids](#ids), for `regression` and `binary`.
    `"two_towers"`: the name of the model that `ranking` also has with `"mlp"`.
    """
    factory: str | None = None
    """`"module:function"`, which returns any `nn.Module` in place of the built-in model. Everything it draws from
    torch, numpy or Python's `random` follows from `learner.seed`, and so do layers made in their first forward. A
    part that it leaves in eval mode inside a model in training mode is frozen and stays in eval mode; so do norms
    whose weights are all frozen. A model that is in eval mode as a whole is not frozen. Buffers with
    `persistent=False` must not change by learning. The output is a tensor, has `logits` (a dict, or a ModelOutput
    of Hugging Face), or is a tuple that begins with a tensor.
    """
    arguments: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    inputs: dict[str, str | Annotated[list[str], Field(min_length=1)]] = {}
    """The columns that the model's forward takes, by the names of its arguments: `{ input_ids = "tokens" }`, or
    several columns side by side, `{ left = ["a", "b"], right = "c" }`. Every feature must be one of them, and
    numeric; a column of lists is (B, length). Arguments that end in `_ids` or `_mask` are whole numbers. A row in
    which they are not, or whose id has no entry in the `nn.Embedding` that receives it unchanged, is a bad row.
    Where the forward takes `attention_mask` and no column gives it, it is 0 for padding (`config.pad_token_id`, or
    0). Without this key the forward is given the encoded row: a tensor, or `{numeric, categorical}`.
    """
    hidden: list[Annotated[int, Field(ge=1)]] = [128, 64]
    """Widths of the layers of the built-in model."""
    embedding: int = Field(8, ge=1)
    """Numbers per category, and per id, in the built-in model."""
    dimension: int = Field(32, ge=1)
    """`ranking` only: numbers in the vector of a query or an item. The built-in model then has a tower for each."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of units that the built-in model drops."""
    rows: Literal["independent", "together"] | None = None
    """Whether the model treats each row of a batch alone. `"independent"`: it does, so the shards of a replica may
    divide the rows of a batch. Each then draws its own Dropout, BatchNorm sees the rows of one shard, and buffers
    are merged after each exchange. `"together"`: it does not (BatchNorm, running statistics, a forward that
    branches on its rows), so each shard takes the whole batch, and a last batch of one row joins the one before it.
    Default: shards try the first rows, and keep rows together in doubt.
    """
    encoder: str | None = None
    """A transformer of Hugging Face for `features.text`: a folder with its configuration, tokenizer and safetensors,
    relative to the job file, or a name whose files are on this machine (`hf download NAME`). It is frozen: its vector
    of a text, the mean of the last hidden states, is computed once, and the model is given it as numbers, in place
    of hashed words. With `[[model.adapt]]` of `peft_lora`, `ia3`, `prefix` or `prompt` it is part of the model and
    adapted ([texts](#texts)).
    """
    encoder_tokens: int = Field(128, ge=2, le=4096)
    """Tokens of a text that count, from its beginning."""
    encoder_cache: Size = "256MB"
    """Size of the vectors that each process keeps, those used last, for texts that occur again."""
    encoder_sha256: str | None = None
    """A hash of the encoder's files. Default: found when a run begins, and kept by it. Another encoder is refused."""
    adapt: list[Named] = []
    """`[[model.adapt]] name = ...`: changes to the model before it learns, in order. Freezing, LoRA, adapters and
    heads; `magnitude_pruning`, `movement_pruning` and `qat` ([smaller models](how-to/smaller.md)); for transformers of
    Hugging Face `prompt`, `prefix`, `peft_lora` and `ia3`, through peft.
    """


class GroupSection(BaseModel):
    """Weights by name pattern, with separate settings of the optimiser."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    match: str
    """A pattern of weight names, such as `"head.*"`. All other keys are settings of the optimiser for these weights."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys but the pattern."""
        return dict(self.model_extra or {})


class HeadSection(Section):
    """A last layer that is worked out, and not learned by steps."""

    name: Literal["ridge"] = "ridge"
    """The kind of head."""
    features: int = Field(2000, ge=1, le=2**15)
    """Random features of the output of the layers below, which are frozen."""
    penalty: float = Field(10.0, gt=0, lt=math.inf)
    """The penalty of the ridge regression, in rows."""
    decay: float = Field(0.0, ge=0, lt=1)
    """For streams that drift: about the last 1 / `decay` rows count."""
    scale: float = Field(1.0, gt=0, lt=math.inf)
    """The scale of the random projections."""
    bias: float = Field(1.0, ge=0, lt=math.inf)
    """The bias of the random projections."""


class BalanceSection(Section):
    """Weights of rows of rare classes, and the class shares that predictions assume."""

    strength: float = Field(0.5, ge=0, le=1)
    """A row of a class with n_c rows so far counts as n_c^-strength, scaled so that rows count 1 on average. 0.5: the
    root of its rarity. 1: all classes alike. 0: no weights.
    """
    prior: Literal["stream", "uniform"] = "stream"
    """`"stream"`: predictions are probabilities for the stream as it is. `"uniform"`: for classes of equal shares. The
    most likely class then maximises macro recall, and the probabilities are not calibrated.
    """
    half_life: float | None = Field(None, gt=0, lt=math.inf)
    """Rows after which a label counts half, where class shares change. Default: all labels count alike."""


class LearnerSection(Section):
    """The update rule."""

    objective: str
    """What the model is asked to do, or `"module:factory"` ([an example](../examples/own_objective/README.md)). Rows
    of a regression that arrive before any target is known count in no metric, because there is no scale yet.
    Required.
    """
    loss: Named | None = None
    """A loss in place of the objective's own. Robust to wrong labels, for classes: `{ name = "gce", q = 0.7 }` or `{
    name = "sce", alpha = 0.1, beta = 1 }`. Robust to outliers, for regression: `{ name = "huber", delta = 1 }`. For
    ranking: `{ name = "softmax", temperature = 1, candidates = 100 }` or `"bpr"`.
    """
    balance: BalanceSection | None = None
    """`binary` and `multiclass`: weights of rows of rare classes, `true` or a table. Predictions account for them.
    Counts of labels are sums over all participants, known to all before an increment is learned. Not with `head`.
    """
    head: HeadSection | None = None
    """`"ridge"`, or `{ name = "ridge", features = 2000, ... }`: a last layer that is solved from sums over all rows
    instead of learned by steps, and forgets none of them ([how](strategies.md#a-head-that-cannot-forget)).
    """
    optimizer: Named = Named.model_validate({"name": "adam", "lr": 0.003})
    """An optimiser of torch.optim by name, and its arguments. It is fused where the device supports that. With
    `features.ids` in a factorisation or two towers the default is `{ name = "adagrad", lr = 0.15 }`, since few steps
    look up a row of a table. With it, and with `"sgd"`, a step updates only the rows looked up; with others, the whole
    table.
    """
    schedule: Named | None = None
    """A scheduler of torch.optim.lr_scheduler that takes numbers, by its name without LR, and its arguments: `{ name =
    "cosineannealing", T_max = 10000 }` (short: `"cosine"`), `"onecycle"`, `"exponential"`,
    `"cosineannealingwarmrestarts"` (short: `"warm_restarts"`), ... With `each = "increment"` it takes a step for
    each increment instead of each optimiser step.
    """
    groups: list[GroupSection] = []
    """`[[learner.groups]] match = "head.*", lr = 0.01`: settings of the optimiser for the weights whose name matches.
    The first pattern that matches counts.
    """
    batch_size: int = Field(32, ge=1)
    """Rows in a batch."""
    accumulate: int = Field(1, ge=1)
    """Batches in an optimiser step."""
    epochs: Literal["auto"] | Annotated[int, Field(strict=True, ge=1)] = 1
    """Passes over an increment. `"auto"`, with `model.kind = "auto"`: 8 while fewer than 600 rows are known, then 450 /
    sqrt(rows known before), from 6 to 1; one pass from 51,000 rows on.
    """
    warm_epochs: int | None = Field(None, ge=1)
    """Passes over the warm start. Default: `epochs`."""
    validation: float | None = Field(None, gt=0, lt=1)
    """Early stopping: hold back this share of an increment's rows, and stop after `patience` passes without a smaller
    loss on them. The weights of the best pass are kept, and the rows held back are then learned in one pass, so
    every row is learned. The metric is `loss.validation`.
    """
    patience: int = Field(1, ge=1)
    """Passes without improvement before early stopping ends an increment."""
    shuffle: bool = True
    """A new order of rows for each pass."""
    clip: float | None = Field(None, gt=0)
    """The largest gradient norm of a step."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The seed of all random numbers. Equal seeds and threads give equal bits."""
    threads: int = Field(1, ge=1, le=1024)
    """CPU threads of each learner."""
    device: str = "cpu"
    """Where learning runs: `"cpu"` or `"cuda"` ([on a GPU](cluster.md#gpus): the same bits in each run there; a model
    that was learned on one device answers on any).
    """
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision of the forward. `"float16"` scales the loss and needs one shard. A backward that overflows is
    repeated at a smaller scale, so no step is left out.
    """
    graphs: bool = False
    """On a GPU, record a step as a CUDA graph and replay it. It takes a fraction of the time and changes no bit;
    [where it is possible](cluster.md#recorded-steps).
    """
    give_up_after: int = Field(3, ge=1)
    """How many increments in a row with a loss or weights that are not finite end the run. Fewer do not: their rows go
    to quarantine, and the model returns to its last commit.
    """
    consolidate: Literal["increment", "task", "drift"] | Annotated[int, Field(strict=True, ge=1)] = "increment"
    """When strategies consolidate: after every increment, every so many rows, `"task"`: before rows of a new
    `features.task` are learned, or `"drift"`: when a `[[drift]]` action asks for it. The last three use the rows
    learned since the last consolidation (for tasks and drifts at least the last 5,000).
    """
    frozen: bool = False
    """Learn nothing after the warm start: a baseline."""

    @property
    def most_epochs(self) -> int:
        """Passes over an increment that is no warm start, at most."""
        return MOST_PASSES if self.epochs == "auto" else self.epochs

    @field_validator("loss", "schedule", "head", mode="before")
    @classmethod
    def _others_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("balance", mode="before")
    @classmethod
    def _balance_or_not(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": "adam", **value} if isinstance(value, dict) else value
