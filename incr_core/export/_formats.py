"""The formats: each writes a version's files, and reads them back to be asked."""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn

from incr_core.errors import ArgumentError, ExportError
from incr_core.export._answering import Answering
from incr_core.export._int8 import fix_ranges, is_quantisation_aware, quantise_linear
from incr_core.export._quiet import quiet
from incr_core.models import dequantised

__all__ = ["FORMATS", "Ask", "Format", "check_installed"]

Ask = Callable[[Mapping[str, Tensor]], Tensor]
"""A model that was read back: named inputs to its output."""


class Format(ABC):
    """A format that models are exported in.

    file: the name of the model's file. needs: packages of the extra `export`. runs: whether the file can be asked
    without the model's class; only then does a latency mean anything.
    """

    file: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    runs: ClassVar[bool] = True

    @abstractmethod
    def write(self, folder: Path, answering: Answering, example: Mapping[str, Tensor], output: str, int8: bool) -> None:
        """Write the model's file; `answering` stays as it is.

        example: inputs of at least two rows. output: the name of what the model gives.
        """

    @abstractmethod
    def read(self, folder: Path, answering: Answering) -> Ask:
        """The model as its file has it; `answering` is as it was before it was written."""


class Pt2(Format):
    """A program of torch.export, for any number of rows; int8 weights become floats as they are used."""

    file = "model.pt2"

    def write(self, folder: Path, answering: Answering, example: Mapping[str, Tensor], output: str, int8: bool) -> None:
        """Trace the model, and save the program."""
        answering = copy.deepcopy(answering)
        fix_ranges(answering.model)
        if int8:
            quantise_linear(answering.model)
        program = _traced(answering, example)
        with quiet():
            torch.export.save(program, folder / self.file)

    def read(self, folder: Path, answering: Answering) -> Ask:
        """Load the program."""
        with quiet():
            program: nn.Module = torch.export.load(folder / self.file).module()

        @torch.no_grad()
        def ask(inputs: Mapping[str, Tensor]) -> Tensor:
            found: Tensor = program(**inputs)
            return found

        return ask


class Onnx(Format):
    """A graph of ONNX, for any number of rows; int8 is of activations too.

    Quantisation-aware layers have the ranges that they learned. Other models get onnxruntime's dynamic quantisation.
    """

    file = "model.onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, folder: Path, answering: Answering, example: Mapping[str, Tensor], output: str, int8: bool) -> None:
        """Trace the model, translate it, and name the dimension that is the rows."""
        import onnx

        from incr_core.export._onnx_int8 import OPSET, use_onnx_quantisation

        aware = is_quantisation_aware(answering.model)
        answering = copy.deepcopy(answering)
        if aware:
            use_onnx_quantisation(answering.model, int8=int8)
        traced = _traced(answering, example)
        with quiet():
            try:
                made = torch.onnx.export(
                    traced, dynamo=True, verbose=False, output_names=[output], opset_version=OPSET, optimize=True
                )
            except torch.onnx.errors.OnnxExporterError as error:
                raise ExportError(
                    f"export: torch.onnx cannot translate the model: {_last_line(error)}; export it as pt2, or leave "
                    "out of the model what ONNX has no operator for"
                ) from error
            assert made is not None
            graph = made.model_proto
        if int8 and not aware:
            graph = _quantised(graph, folder / "float.onnx")
        _name_rows(graph.graph)
        onnx.save(graph, folder / self.file)

    def read(self, folder: Path, answering: Answering) -> Ask:
        """A session of onnxruntime on one thread, as torch has here."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / self.file, options, providers=["CPUExecutionProvider"])

        def ask(inputs: Mapping[str, Tensor]) -> Tensor:
            return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

        return ask


class Safetensors(Format):
    """The model's weights under the names of its `state_dict`, for whoever builds the model himself.

    Of a layer in int8 there are `NAME.weight`, and `NAME.weight_scale` to multiply it with.
    """

    file = "model.safetensors"
    runs = False

    def write(self, folder: Path, answering: Answering, example: Mapping[str, Tensor], output: str, int8: bool) -> None:
        """Write the weights, each by itself, also those that share memory."""
        answering = copy.deepcopy(answering)
        if int8:
            quantise_linear(answering.model)
        weights = {name: value.clone().contiguous() for name, value in answering.model.state_dict().items()}
        safetensors.torch.save_file(weights, folder / self.file)

    def read(self, folder: Path, answering: Answering) -> Ask:
        """Put the weights into a model that has none of them."""
        weights = safetensors.torch.load_file(folder / self.file)
        scales = {name: weights.pop(name) for name in list(weights) if name.endswith(".weight_scale")}
        for name, scale in scales.items():
            name = name.removesuffix("_scale")
            weights[name] = dequantised(weights[name], scale)
        for value in answering.model.state_dict().values():
            value.zero_()
        answering.model.load_state_dict(weights)

        @torch.no_grad()
        def ask(inputs: Mapping[str, Tensor]) -> Tensor:
            found: Tensor = answering(**inputs)
            return found

        return ask


FORMATS: dict[str, Format] = {"onnx": Onnx(), "pt2": Pt2(), "safetensors": Safetensors()}
"""Name -> format."""


def check_installed(name: str) -> None:
    """ArgumentError where a package that a format needs is not installed."""
    for package in FORMATS[name].needs:
        try:
            with quiet():
                importlib.import_module(package)
        except ModuleNotFoundError as missing:
            raise ArgumentError(
                f"format: {name} needs {missing.name}, which is not installed; pip install 'incr[export]', or take pt2"
            ) from missing


def _traced(answering: Answering, example: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(
                answering, (), kwargs=dict(example), dynamic_shapes={name: {0: rows} for name in example}, strict=False
            )
    except Exception as error:  # of torch, of many kinds; or of the model, which meets values that are not there
        raise ExportError(
            f"export: torch.export cannot trace the model: {_last_line(error)}; let its forward neither branch on "
            "values nor fix the number of rows, or export safetensors and build the model yourself"
        ) from error


def _last_line(error: BaseException) -> str:
    """What an error of torch says in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _quantised(graph: Any, path: Path) -> Any:
    """An ONNX model whose linear layers compute in int8; `path` is of a file that is there for a moment."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.save(graph, path)
    small = path.with_name("int8.onnx")
    try:
        with quiet():
            quantize_dynamic(
                path, small, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
            )
        return onnx.load(small)
    finally:
        path.unlink()
        small.unlink(missing_ok=True)


def _name_rows(graph: Any) -> None:
    """Call the first dimension of inputs and outputs "rows", where torch gives it a number."""
    [name] = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == name:
                size.dim_param = "rows"
