"""The model that a job describes: built, adapted, tried out, and put on its device."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from incr_core._util import build
from incr_core.batch import Inputs
from incr_core.data.encoding import Encoder
from incr_core.errors import IncrError, JobError
from incr_core.job._file import JobFile
from incr_core.job._ids import ranks_catalogue, takes_sparse
from incr_core.job._inputs import ByColumn
from incr_core.job._pruning import arguments_of_masks
from incr_core.models import (
    MODELS,
    Factorisation,
    TableExperts,
    TableMLP,
    TableShape,
    TokenCNN,
    TransformerText,
    TwoTower,
    answering,
    ask,
)
from incr_core.models.adapt import ADAPTATIONS, ridge
from incr_core.numerics import seeded

__all__ = ["ids_of", "model_of"]

EXACT = 2**24
"""Bound below which a float32, the type of features, represents all whole numbers."""


def model_of(job: JobFile, encoder: Encoder, outputs: int, numeric: int) -> nn.Module:
    """The model, with weights drawn from the seed; equal on every participant.

    So are those of layers that are made in their first forward, such as LazyLinear: a factory's model is tried out
    first.

    outputs: what its objective asks for, a row; numeric: the numbers of a row, rates among them.
    """
    shape = _shape(job, encoder, outputs, numeric)
    by_column = ByColumn(job, encoder) if job.model.inputs else None
    with seeded(job.learner.seed):
        model = _plain(job, encoder, shape)
        if any(map(is_lazy, [*model.parameters(), *model.buffers()])):  # adaptations must know their shapes
            handle = None if by_column is None else by_column.attach(model)
            _answer_one(model, job, shape, of_tokens=encoder.of_tokens)
            if handle is not None:
                handle.remove()
        model = _adapted(job, model)
        if by_column is not None:
            by_column.attach(model)
        if job.model.factory is not None:
            _try_out(model, job, shape, of_tokens=encoder.of_tokens)
    return _on_device(model, job.learner.device)


def ids_of(job: JobFile, encoder: Encoder, outputs: int, numeric: int) -> dict[str, range]:
    """The whole numbers that the model takes in the columns of ids that `model.inputs` names.

    For ids that reach an `nn.Embedding` unchanged, these are its entries; a model is built to find out. All others are
    only known to be whole.
    """
    if not job.model.inputs:
        return {}
    by_column = ByColumn(job, encoder)
    if not by_column.ids:
        return {}
    entries: dict[str, int] = {}
    given: dict[str, int] = {}  # where the memory of each argument is

    def named(model: nn.Module, positional: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        given.update({name: arguments[name].untyped_storage().data_ptr() for name in by_column.ids})

    def looked_up(embedding: nn.Embedding | nn.EmbeddingBag, positional: tuple[Any, ...], arguments: Any) -> None:
        keys = positional[0] if positional else arguments["input"]
        for name, memory in given.items():
            if keys.untyped_storage().data_ptr() == memory:
                entries[name] = min(entries.get(name, EXACT), embedding.num_embeddings)

    shape = _shape(job, encoder, outputs, numeric)
    with seeded(job.learner.seed):
        model = _plain(job, encoder, shape)
        by_column.attach(model)
        model.register_forward_pre_hook(named, with_kwargs=True)
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                module.register_forward_pre_hook(looked_up, with_kwargs=True)
        _answer_one(model, job, shape, of_tokens=encoder.of_tokens)
    allowed = {name: range(entries[name]) if name in entries else range(-EXACT, EXACT + 1) for name in by_column.ids}
    return {column: allowed[name] for name, columns in by_column.ids.items() for column in columns}


def _shape(job: JobFile, encoder: Encoder, outputs: int, numeric: int) -> TableShape:
    """The shape of encoded rows with `numeric` numbers, for the model."""
    features = job.features
    text = (len(encoder.text), encoder.slots, encoder.text_buckets) if encoder.worded else (0, 0, 0)
    ids = (len(features.ids), features.id_rows, features.id_after, features.id_unused or 0) if features.ids else ()
    return TableShape(numeric, len(features.categorical), features.buckets, outputs, *text, *ids)


def _plain(job: JobFile, encoder: Encoder, shape: TableShape) -> nn.Module:
    if job.model.factory is not None:
        return _own(job.model.factory, job, shape)
    hidden = job.model.hidden if job.learner.head is None else []  # with a solved head, hidden layers would never learn
    sizes = hidden, job.model.embedding, job.model.dropout
    if encoder.of_tokens:
        return TokenCNN(shape.outputs, *sizes)
    sparse, averaged = bool(shape.ids) and takes_sparse(job), job.cluster.average_every == 1
    if job.learner.objective == "ranking":
        return TwoTower(
            shape, _places_of_item(job, encoder), *sizes, ranks=ranks_catalogue(job), sparse=sparse, averaged=averaged
        )
    if job.model.kind == "factorisation":
        return Factorisation(shape, job.model.embedding, sparse=sparse, averaged=averaged)
    try:
        if shape.ids:
            return TableMLP(shape, *sizes, sparse=sparse, averaged=averaged, transformer=_transformer(encoder))
        if encoder.tokenised:
            return TableMLP(shape, *sizes, transformer=_transformer(encoder))
        return (TableExperts if job.model.kind == "auto" else TableMLP)(shape, *sizes)
    except RuntimeError as error:  # torch has no separate error for too little memory on the CPU
        raise JobError(
            f"model: expected layers that fit into memory, got hidden = {job.model.hidden} and "
            f"{shape.categorical * shape.buckets:,} embeddings of {job.model.embedding} numbers: "
            f"{str(error).splitlines()[0]}; make model.hidden, model.embedding or features.buckets smaller"
        ) from error


def _transformer(encoder: Encoder) -> TransformerText | None:
    """The transformer that reads the texts and learns, with the weights of its folder; None without one."""
    pretrained = encoder.pretrained
    if pretrained is None or not encoder.tokenised:
        return None
    return TransformerText(pretrained.body(), len(encoder.text), pretrained.width)


def _own(factory: str, job: JobFile, shape: TableShape) -> nn.Module:
    make = job.named(factory, "model.factory", MODELS)
    arguments = dict(job.model.arguments)
    if "shape" in inspect.signature(make).parameters:
        arguments["shape"] = shape
    try:
        model: nn.Module = make(**arguments)
    except TypeError as error:
        raise JobError(f"model.arguments: {factory} refuses them: {error}") from error
    if not isinstance(model, nn.Module):
        raise JobError(f"model.factory: expected {factory} to make a torch.nn.Module, got {type(model).__name__}")
    return model


def _places_of_item(job: JobFile, encoder: Encoder) -> dict[str, list[int]]:
    """The places of the item's columns among a row's numbers, categories and ids."""
    features = job.features
    strangers = [name for name in features.item if name not in encoder.inputs]
    if not features.item or strangers or len(features.item) == len(encoder.inputs):
        got = f"{strangers[0]!r}, which is no feature" if strangers else f"{len(features.item)} of them"
        raise JobError(
            f"features.item: expected some of the {len(encoder.inputs)} feature columns, got {got}; "
            "name those that tell items apart, and leave some to the query"
        )
    of_numbers = encoder.places
    numeric = [place for name in features.numeric if name in features.item for place in of_numbers[name]]
    places = {"numeric": numeric}
    for key, names in (("categorical", features.categorical), ("ids", features.ids)):
        places[key] = [place for place, name in enumerate(names) if name in features.item]
    return places


def _adapted(job: JobFile, model: nn.Module) -> nn.Module:
    for step in job.model.adapt:
        adapt = job.named(step.name, "model.adapt.name", ADAPTATIONS)
        model = build(adapt, arguments_of_masks(step), f"model.adapt {step.name}", model)
    head = job.learner.head
    if head is not None:
        model = ridge(model, head.features, job.learner.seed % 2**32, head.scale, head.bias)
    return model


def _try_out(model: nn.Module, job: JobFile, shape: TableShape, *, of_tokens: bool) -> None:
    """Answer one empty row: a model of another width says so here, and not in the middle of a step."""
    output = _answer_one(model, job, shape, of_tokens=of_tokens)
    outputs = shape.outputs * (shape.numeric if of_tokens else 1)
    if output.numel() != outputs:
        raise JobError(
            f"model.factory: expected {outputs} outputs a row, got {output.numel()} from {job.model.factory}; "
            "change its last layer"
        )


def _answer_one(model: nn.Module, job: JobFile, shape: TableShape, *, of_tokens: bool) -> Tensor:
    inputs: Inputs = torch.zeros(1, shape.numeric, dtype=torch.int64 if of_tokens else torch.float32)
    if shape.categorical or shape.text or shape.ids:
        inputs = {"numeric": torch.zeros(1, shape.numeric)}
        if shape.categorical:
            inputs["categorical"] = torch.zeros(1, shape.categorical, 2, dtype=torch.int64)
        if shape.text:
            inputs["text"] = torch.zeros(1, shape.text, shape.slots, dtype=torch.int32)
        if shape.ids:
            inputs["ids"] = torch.zeros(1, shape.ids, dtype=torch.int64)
    try:
        with torch.no_grad(), answering(model):
            output: Tensor = ask(model, inputs)
    except IncrError:  # of what adapts it
        raise
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        given = f"{shape.numeric} numbers and {shape.categorical} categories"
        raise JobError(f"model.factory: {job.model.factory} cannot take rows of {given}: {error}") from error
    return output


def _on_device(model: nn.Module, device: str) -> nn.Module:
    try:
        torch.Generator(device)  # a learner draws there too
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise JobError(f"learner.device: {device!r} cannot be used here: {error}") from error
