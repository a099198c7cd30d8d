"""A trained model as an ONNX graph, from a film or from squares to what a row of `--mode=predict` has.

Calibration, thresholds, OOD score and map are in the graph, and those of ensembles too. It computes in float32, also
where the model was trained in bfloat16. Three things are left to the user's program: decoding a file to grey levels;
the quality flags of the file; and the flag "in_training", which needs hashes.

Outputs, for each film or image:
  probability: P(pneumonia), calibrated at the model's prevalence, in [0, 1].
  logit: before calibration; of an ensemble, the mean of the scaled logits.
  decision, decision_at_sens95: int64, 1 is pneumonia: whether the probability reaches the balanced threshold, and the
    sensitive one.
  ood_score: how far the image is from the training images, at least 0, see `guard`; of an ensemble, the median.
  unlike_training: bool, whether the OOD score is beyond the limit; of an ensemble, of more than half of its networks.
  map: (size, size), Grad-CAM at the last convolution, positive where the image is evidence for pneumonia.
  square: (size, size) uint8, what the networks saw.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper

from pneumojax import __version__
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.guard import has_guard
from pneumojax.export.bounds import largest_within, lowest_logit
from pneumojax.export.film_square import squared
from pneumojax.export.graph_builder import Graph
from pneumojax.export.network_graph import network
from pneumojax.export.statistics_graph import statistics
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.models.architectures import table_of

OPSET, IR_VERSION = 18, 8  # old enough for runtimes of 2023
NOTICE = "Not a medical device: for research only, never for diagnosis."
BATCH = "batch"  # the symbolic axis of `batch_model`
_KINDS = {
    "probability": TensorProto.FLOAT,
    "logit": TensorProto.FLOAT,
    "decision": TensorProto.INT64,
    "decision_at_sens95": TensorProto.INT64,
    "ood_score": TensorProto.FLOAT,
    "unlike_training": TensorProto.BOOL,
    "map": TensorProto.FLOAT,
    "square": TensorProto.UINT8,
}
OUTPUTS = tuple(_KINDS)


def film_model(model: TrainedModel) -> onnx.ModelProto:
    """Return the graph of one film: `film`, (height, width) uint8 of any size, grey, 0 is black.

    The film is resized to the square as `data.decode.images.resize` does. Outputs have no batch axis.
    """
    graph = Graph()
    square = squared(graph.part("resize"), "film", model.image_size)
    images = graph.add("Unsqueeze", [square, graph.axis(0)], "images")
    for name, tensor in _answers(graph, model, images).items():
        graph.add("Squeeze", [tensor, graph.axis(0)], name)
    film = helper.make_tensor_value_info("film", TensorProto.UINT8, ["height", "width"])
    return _proto(graph, model, film, [])


def batch_model(model: TrainedModel) -> onnx.ModelProto:
    """Return the graph of squares: `images`, (batch, size, size) uint8. Outputs start with the batch axis."""
    graph = Graph()
    for name, tensor in _answers(graph, model, "images").items():
        graph.add("Identity", [tensor], name)
    shape = [BATCH, model.image_size, model.image_size]
    return _proto(graph, model, helper.make_tensor_value_info("images", TensorProto.UINT8, shape), [BATCH])


def _answers(graph: Graph, model: TrainedModel, images: str) -> dict[str, str]:
    """Compute the outputs of `images`, (batch, size, size) uint8; return their tensors, which have a batch axis."""
    part = graph.part("batch")
    channel = part.add("Unsqueeze", [images, part.axis(1)], "channel")
    levels = part.add("Cast", [channel], "levels", to=TensorProto.FLOAT)
    scaled = part.add("Div", [levels, part.constant("white", np.float32(255))], "intensities")
    alone = len(model.members) == 1
    guarded = any(has_guard(member.training) for member in model.members)
    measured = statistics(graph.part("statistics"), scaled, model.image_size) if guarded else ""
    found = [
        network(graph.part("network" if alone else f"network_{number}"), member, scaled, model.image_size, measured)
        for number, member in enumerate(model.members)
    ]
    limits = np.array([largest_within(member.training.limit) for member in model.members])
    scores = part.add("Concat", [each.ood_score for each in found], "ood_scores", axis=1)
    return _calibrated(part, _mean(part, [each.logit for each in found], "logit"), model.calibration) | {
        "ood_score": _median(part, scores, len(found)),
        "unlike_training": _unlike(part, scores, limits),
        "map": _mean(part, [each.map for each in found], "map"),
        "square": images,
    }


def _calibrated(graph: Graph, logit: str, calibration: Calibration) -> dict[str, str]:
    """Compute the outputs that follow from the logit, by their names."""
    temperature = graph.constant("temperature", np.float32(calibration.temperature))
    offset = graph.constant("offset", np.float32(calibration.offset))
    odds = graph.add("Add", [graph.add("Div", [logit, temperature], "logit.scaled"), offset], "log_odds")
    answers = {"logit": logit, "probability": graph.add("Sigmoid", [odds], "probability")}
    thresholds = {"decision": calibration.threshold, "decision_at_sens95": calibration.threshold_sens95}
    for name, threshold in thresholds.items():
        lowest = graph.constant(f"{name}.lowest_logit", lowest_logit(calibration, threshold))
        reached = graph.add("GreaterOrEqual", [logit, lowest], f"{name}.reached")
        answers[name] = graph.add("Cast", [reached], name, to=TensorProto.INT64)
    return answers


def _mean(graph: Graph, tensors: Sequence[str], name: str) -> str:
    return tensors[0] if len(tensors) == 1 else graph.add("Mean", tensors, name)


def _median(graph: Graph, scores: str, count: int) -> str:
    """Compute the median of scores, (batch, count), over the networks: (batch,)."""
    ascending = graph.lowest(scores, count, "ood_scores.ascending")
    middle = graph.constant("ood_scores.middle", np.unique([(count - 1) // 2, count // 2]))
    middles = graph.add("Gather", [ascending, middle], "ood_scores.middles", axis=1)
    return graph.add("ReduceMean", [middles, graph.axis(1)], "ood_score", keepdims=0)


def _unlike(graph: Graph, scores: str, limits: Float32[np.ndarray, " networks"]) -> str:
    """Compute whether more than half of the scores, (batch, networks), are beyond their networks' limits: (batch,)."""
    beyond = graph.add("Greater", [scores, graph.constant("ood_scores.limits", limits)], "ood_scores.beyond")
    votes = graph.add("Cast", [beyond], "ood_scores.votes", to=TensorProto.INT32)
    count = graph.add("ReduceSum", [votes, graph.axis(1)], "ood_scores.count", keepdims=0)
    return graph.add("Greater", [count, graph.int32(len(limits) // 2)], "unlike_training")


def _proto(graph: Graph, model: TrainedModel, taken: onnx.ValueInfoProto, axes: Sequence[str]) -> onnx.ModelProto:
    """Make the checked model of a graph; the outputs' shapes start with `axes`."""
    square = [model.image_size] * 2
    given = [
        helper.make_tensor_value_info(name, kind, [*axes, *(square if name in ("map", "square") else [])])
        for name, kind in _KINDS.items()
    ]
    made = helper.make_graph(graph.nodes, "pneumojax", [taken], given, list(graph.constants.values()))
    proto = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="PneumoJAX", producer_version=__version__, doc_string=NOTICE,
    )  # fmt: skip
    helper.set_model_props(proto, facts(model))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def facts(model: TrainedModel) -> dict[str, str]:
    """Return the metadata of the graph, `metadata_props` in ONNX."""
    dtypes = {np.dtype(member.model.dtype or np.float32).name for member in model.members}
    limits = ", ".join(repr(float(member.training.limit)) for member in model.members)
    return {
        "name": model.name,
        "digest": model.digest,
        "version": __version__,
        "notice": NOTICE,
        "image_size": str(model.image_size),
        "networks": "; ".join(table_of(member.model.blocks) for member in model.members),
        "computed_in": "float32",
        "trained_in": ", ".join(sorted(dtypes)),
        "ood_limits": limits,
    } | {name: repr(float(value)) for name, value in model.calibration._asdict().items()}
