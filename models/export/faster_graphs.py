"""Faster twins of a scorer's graph: int8 with a scale for each token's row, and fp16 with fused attention for CUDA.

Both leave inputs, outputs and heads in fp32 and change the trunk alone. Neither needs data: int8 scales each activation row by itself,
so that a text's score is the same whoever shares its batch (one scale for the tensor, as ONNX Runtime's own dynamic quantisation
takes it, moves scores by half a standard deviation). What a twin loses is measured on texts and written beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from attune.models.data.graph import answers_alone_and_shared
from attune.models.export.onnx import LARGEST_MESSAGE, ExportFailed, difference, weights_beside
from attune.models.seam.precision import TOLERANCES, Precision, probe_difference
from attune.models.seam.text import Encoded

TRUNK = "/trunk/"
TRANSFORMER = "/trunk/model/"
MOST_READ = 1024  # elements of a constant whose values decide a shape; larger ones are weights
LEAST_OPSET = 18  # ReduceMax takes its axes as an input from here on


def tolerance(precision: Precision) -> float:
    """Returns the greatest `probe_difference` from torch's fp32 answers that a graph of this precision may have."""
    return TOLERANCES[precision]


def save_graph(model: ModelProto, target: Path, *, largest_message: int = LARGEST_MESSAGE) -> None:
    """Writes a graph to `target`, its weights to `<stem>.data` beside it where one message cannot hold them."""
    if model.ByteSize() < largest_message:
        onnx.save(model, str(target))
    else:
        onnx.save(model, str(target), save_as_external_data=True, location=weights_beside(target).name)


# --- int8 -------------------------------------------------------------------------------------------------------------


def row_scaled_int8(source: ModelProto | Path, target: Path, *, inside: str = TRUNK) -> int:
    """Writes `source` with the trunk's products of activations and constants in int8 to `target`; returns how many there are.

    Weights get one scale for each output column, activations one for each row (token), from its greatest absolute value; both are
    coded symmetrically to ±127, and the sums are exact in int32, in a session with `int8_session_entries`. Only operators of plain ONNX
    are used.

    Args:
        source: an exported scorer, or its file; not changed.
        target: the file to write.
        inside: products whose node's name begins so are rewritten; heads lie elsewhere.

    Raises:
        ExportFailed: there is no such product, or the graph is older than opset 18.
    """
    model = onnx.load(str(source)) if isinstance(source, Path) else _copy(source)
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if opset < LEAST_OPSET:
        raise ExportFailed(f"the graph has opset {opset}; int8 needs {LEAST_OPSET} or later")
    rewrite = _RowScaled(model)
    for node in list(model.graph.node):
        if not (node.name.startswith(inside) and rewrite.product(node)):
            rewrite.nodes.append(node)
    if not rewrite.count:
        raise ExportFailed(f"no matrix product with constant weights lies under {inside}; nothing would be in int8")
    rewrite.finish()
    onnx.checker.check_model(model)
    save_graph(model, target)
    return rewrite.count


class _RowScaled:
    """A graph under rewriting: its new nodes in order, and what was coded so far by the name of what it codes."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = []
        self.count = 0
        self._known = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made = {output: node for node in model.graph.node for output in node.output}
        self._weights: dict[tuple[str, bool], str] = {}
        self._rows: dict[str, str] = {}
        for name, value in (
            ("int8_last_axis", np.array([-1], dtype=np.int64)),
            ("int8_least", np.float32(1e-6)),
            ("int8_127", np.float32(127)),
            ("int8_one", np.float32(1)),
            ("int8_zero", np.uint8(128)),
        ):
            self._constant(name, value)

    def product(self, node: NodeProto) -> bool:
        """Adds the int8 form of `node` where it is a product with a constant matrix; returns whether it was."""
        if node.op_type not in {"MatMul", "Gemm"}:
            return False
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if given.get("transA", 0):
            return False
        weights = self._coded_weights(node.input[1], transposed=bool(given.get("transB", 0)))
        if weights is None:
            return False
        rows, mine = self._coded_rows(node.input[0]), f"int8_product{self.count}"
        self.count += 1
        self._add("MatMulInteger", [rows, weights, "int8_zero"], mine)
        self._add("Cast", [mine], f"{mine}_float", to=TensorProto.FLOAT)
        self._add("Mul", [f"{mine}_float", f"{rows}_scale"], f"{mine}_rows")
        scale = f"{weights}_scale"
        if given.get("alpha", 1.0) != 1.0:
            self._constant(f"{mine}_alpha", np.float32(given["alpha"]))
            self._add("Mul", [scale, f"{mine}_alpha"], f"{mine}_columns")
            scale = f"{mine}_columns"
        if len(node.input) < 3 or not node.input[2]:
            self._add("Mul", [f"{mine}_rows", scale], node.output[0])
            return True
        self._add("Mul", [f"{mine}_rows", scale], f"{mine}_scaled")
        bias = node.input[2]
        if given.get("beta", 1.0) != 1.0:
            self._constant(f"{mine}_beta", np.float32(given["beta"]))
            self._add("Mul", [bias, f"{mine}_beta"], f"{mine}_bias")
            bias = f"{mine}_bias"
        self._add("Add", [f"{mine}_scaled", bias], node.output[0])
        return True

    def finish(self) -> None:
        """Puts the nodes into the graph and drops constants that nothing reads any more."""
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        outputs = {output.name for output in graph.output}
        while True:
            read = {name for node in graph.node for name in node.input} | outputs
            # Only what made constants: a node that was needed before is needed still.
            idle = [node for node in graph.node if node.op_type in {"Constant", "Identity", "Transpose"} and not read & set(node.output)]
            if not idle:
                break
            for node in idle:
                graph.node.remove(node)
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _coded_weights(self, name: str, *, transposed: bool) -> str | None:
        if (name, transposed) not in self._weights:
            weight = self._value(name)
            if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
                return None
            weight = weight.T if transposed else weight
            coded = self._weights[name, transposed] = f"int8_weights{len(self._weights)}"
            scale = np.maximum(np.abs(weight).max(axis=0), 1e-9) / 127
            self._constant(coded, np.clip(np.round(weight / scale), -127, 127).astype(np.int8))
            self._constant(f"{coded}_scale", scale.astype(np.float32))
        return self._weights[name, transposed]

    def _coded_rows(self, name: str) -> str:
        if name not in self._rows:  # query, key and value read the same rows
            row = self._rows[name] = f"int8_rows{len(self._rows)}"
            self._add("Abs", [name], f"{row}_abs")
            self._add("ReduceMax", [f"{row}_abs", "int8_last_axis"], f"{row}_most", keepdims=1)
            self._add("Max", [f"{row}_most", "int8_least"], f"{row}_size")
            self._add("Div", [f"{row}_size", "int8_127"], f"{row}_scale")
            self._add("Div", ["int8_127", f"{row}_size"], f"{row}_factor")
            self._add("Mul", [name, f"{row}_factor"], f"{row}_scaled")
            self._add("QuantizeLinear", [f"{row}_scaled", "int8_one", "int8_zero"], row)
        return self._rows[name]

    def _value(self, name: str) -> NDArray[Any] | None:
        """Returns a constant, through the operators that exporters put between a weight and its product; None if it is none."""
        if name in self._known:
            return numpy_helper.to_array(self._known[name])
        node = self._made.get(name)
        if node is None:
            return None
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        match node.op_type:
            case "Constant" if "value" in given:
                return numpy_helper.to_array(given["value"])
            case "Identity":
                return self._value(node.input[0])
            case "Transpose":
                value = self._value(node.input[0])
                return None if value is None else np.transpose(value, given.get("perm"))
        return None

    def _constant(self, name: str, value: Any) -> None:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{TRUNK}{output}", **attributes))


def _copy(model: ModelProto) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(model)
    return copied


# --- fp16 -------------------------------------------------------------------------------------------------------------


def fused_fp16(source: Path, target: Path, model_type: str, heads: int, hidden: int) -> bool:
    """Writes `source` with its transformer in fp16 to `target`; returns whether attention could be fused into single operators.

    Inputs and outputs keep their types. Pooling and heads stay in fp32, where sums over hundreds of tokens and logarithms need it, and
    so do normalisations that were exported as single steps, whose squares overflow.

    Args:
        source: an exported fp32 scorer.
        target: the file to write; fused graphs hold operators of ONNX Runtime alone.
        model_type: of the trunk's `config.json`; one whose patterns the optimizer does not know is converted without fusing.
        heads: attention heads.
        hidden: size of the hidden state.
    """
    from onnxruntime.transformers import float16, optimizer  # noqa: PLC0415 - half of onnxruntime's tools, for this alone
    from onnxruntime.transformers.onnx_model import OnnxModel  # noqa: PLC0415 - the same

    graph = None
    if model_type in LIKE_BERT:
        tried = optimizer.optimize_model(str(source), model_type="bert", num_heads=heads, hidden_size=hidden, use_gpu=True, opt_level=0)
        graph = tried if any(node.op_type in ATTENTION for node in tried.model.graph.node) else None
    fused = graph is not None
    graph = graph or OnnxModel(onnx.load(str(source)))
    graph.model.graph.value_info.extend(_types(graph.model))
    kept = [node.name for node in graph.model.graph.node if _stays_fp32(node)]
    graph.initialize(float16.convert_float_to_float16(graph.model, disable_shape_infer=True, keep_io_types=True, node_block_list=kept))
    graph.remove_cascaded_cast_nodes()
    # The conversion adds one equal cast for each node in fp32 that reads a value in fp16, all of one name, which no session loads.
    nodes = {tuple(node.output): node for node in graph.model.graph.node}
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(nodes.values())
    graph.topological_sort()
    save_graph(graph.model, target)
    return fused


LIKE_BERT = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet"})
"""Architectures that are exported like BERT, the one whose patterns the optimizer finds in these graphs: of decoders it knows those with a
cache of keys and values, and to look takes seven times the weights in memory."""

ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})
NORMALISED = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})


def _types(model: ModelProto) -> list[ValueInfoProto]:
    """Returns the element type of each value between nodes that has none yet.

    They are inferred on the graph without its weights, which inference copies: with the optimizer's copies 0.9 GB of them took 15 GB.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference  # noqa: PLC0415 - knows the optimizer's own operators

    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) > MOST_READ:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            bare.graph.initializer.append(tensor)
    inferred = SymbolicShapeInference.infer_shapes(bare, auto_merge=True, guess_output_rank=False)
    known = {one.name for one in model.graph.value_info}
    found = [one for one in inferred.graph.value_info if one.name not in known and one.type.tensor_type.elem_type]
    return [helper.make_tensor_value_info(one.name, one.type.tensor_type.elem_type, None) for one in found]


def _stays_fp32(node: NodeProto) -> bool:
    if node.name.startswith("/") and not node.name.startswith(TRANSFORMER):
        return True  # pooling and heads; operators that fusing made have names of their own, without a path
    return "norm" in node.name.lower() and node.op_type not in NORMALISED and node.domain != "com.microsoft"


# --- what it costs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrecisionLoss:
    """What a twin costs against fp32, on the same texts.

    Attributes:
        difference: greatest absolute difference of any output.
        reward_rmse: root mean square difference of rewards in units of each head's standard deviation, over all families' heads.
        agreement: share of random pairs that a family's heads order as fp32 does.
        batch_difference: greatest absolute difference of any output of a text alone and in a batch with all others.
        fp32_batch_difference: the same for fp32, the noise floor.
    """

    difference: float
    reward_rmse: float
    agreement: float
    batch_difference: float
    fp32_batch_difference: float


def measure_precision(fp32: Path, twin: Path, rows: Sequence[Encoded], *, seed: int = 0) -> PrecisionLoss:
    """Returns what `twin` loses against `fp32` on `rows` on a CPU, in batches of 16 beside alone; pairs are drawn with `seed`."""
    (alone, shared), (exact, exact_shared) = (answers_alone_and_shared(path, rows, batch=16) for path in (twin, fp32))
    pairs = np.random.default_rng(seed).integers(0, len(rows), size=(4096, 2))
    first, second = pairs[pairs[:, 0] != pairs[:, 1]].T
    found, expected = _rewards(alone), _rewards(exact)
    ordered = np.sign(found[first] - found[second]) == np.sign(expected[first] - expected[second])
    rmse = float(np.sqrt(np.mean(((found - expected) / np.maximum(expected.std(axis=0), 1e-9)) ** 2)))
    return PrecisionLoss(
        difference(alone, exact), rmse, float(np.mean(ordered)), difference(shared, alone), difference(exact_shared, exact)
    )


def scorer_entry(
    file: str, precision: Precision, found: Path, rows: Sequence[Encoded], expected: Mapping[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """Returns what a manifest says of one graph under `scorers`: file, tolerance, and what was measured on the probes on a CPU.

    Args:
        file: its path inside the bundle.
        precision: of the graph.
        found: the graph.
        rows: the probes.
        expected: torch's answers, each text alone.

    Raises:
        ExportFailed: it differs from torch by more than its tolerance.
    """
    alone, shared = answers_alone_and_shared(found, rows, batch=len(rows))
    worst, limit = probe_difference(alone, expected), tolerance(precision)
    if not worst <= limit:
        raise ExportFailed(f"the {precision} graph differs from torch by {worst:g}; at most {limit:g} is accepted")
    return {
        "file": file,
        "tolerance": limit,
        "difference_from_torch": worst,
        "batch_dependence": probe_difference(shared, alone),
    }


def _rewards(answers: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([value for name, value in sorted(answers.items()) if name.endswith("_rewards")], axis=1)
