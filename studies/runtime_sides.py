"""One model in JAX, ONNX Runtime and OpenVINO, as steps for a benchmark worker, from squares in memory to answers.

Weights and training features are random, since no time depends on them. Every side computes in float32, on as many
threads as the process has cores.
"""

import tempfile
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import onnx
import onnx.utils
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict

from pneumojax.api import load
from pneumojax.benchmark.tasks import Task
from pneumojax.benchmark.worker import ReadyStep, Ways
from pneumojax.evaluation import neighbours
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.forward import Evaluator
from pneumojax.export.onnx_graph import BATCH, batch_model
from pneumojax.inference import bundle
from pneumojax.inference.trained_model import Member, TrainedModel, of_members
from pneumojax.models.architectures import FAMILY, HEAD_UNITS
from pneumojax.models.classifier import Classifier, init_variables
from pneumojax.runtime import sharding
from pneumojax.runtime.host import cores

TRAINING = 5000  # images in the index
CALIBRATION = Calibration(temperature=1.0, threshold=0.5, threshold_sens95=0.5, prevalence=0.5, offset=0.0)
FACTS = {"platform": "cpu"}
Squares = UInt8[np.ndarray, "batch size size"]


def ways(variant: str) -> Callable[[Task, ConfigDict], Ways]:
    """Return what a worker prepares: "evaluator", "load", or a runtime, with "-logit" for the logit as only output."""
    runtime, _, only = variant.partition("-")
    builders = {"evaluator": _evaluator, "load": _load}
    if runtime in builders:
        return lambda task, _: {"": partial(builders[runtime], task)}
    build = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
    return lambda task, _: {
        name: partial(build, task, only, fixed) for name, fixed in (("any batch", False), ("fixed batch", True))
    }


def _model(task: Task) -> TrainedModel:
    model = Classifier(FAMILY[task.model])
    variables = jax.device_get(init_variables(model, task.image_size, 0))
    features = np.random.default_rng(0).random((TRAINING, HEAD_UNITS), np.float32)
    numbers = np.arange(TRAINING)
    index = neighbours.Index(numbers.astype(str), (numbers % 2).astype(np.uint8), neighbours.unit(features), 0.5)
    return of_members(task.model, [Member(model, variables, index)], CALIBRATION, task.image_size)


def _squares(task: Task) -> Squares:
    shape = (task.batch_size, task.image_size, task.image_size)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _evaluator(task: Task) -> ReadyStep:
    """Build the step of evaluation and prediction: logits and features."""
    layout = sharding.layout(jax.devices())
    member, images = _model(task).members[0], _squares(task)[..., None]
    with jax.set_mesh(layout.mesh):
        evaluator = Evaluator(member.model, layout, task.batch_size)
        variables = jax.device_put(member.variables, layout.replicated)

    def step() -> None:
        with jax.set_mesh(layout.mesh):
            jax.block_until_ready(evaluator.batch(variables, images))

    return ReadyStep(step, FACTS)


def _load(task: Task) -> ReadyStep:
    """Build `pneumojax.load(...).predict`: all of a row of `--mode=predict`, with the quality flags of the film."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in bundle.contents(_model(task), {}).items():
            (epath.Path(folder) / name).write_bytes(content)
        model = load(folder, keep_freed_memory=False, keep_compiled=False)
    films = list(_squares(task))
    return ReadyStep(lambda: model.predict(films), FACTS)


def _proto(task: Task, only: str, fixed: bool) -> onnx.ModelProto:
    """Return the graph of batches; with the output `only`, if one is named, and of this batch only, if it is fixed."""
    proto = batch_model(_model(task))
    if only:
        proto = onnx.utils.Extractor(proto).extract_model(["images"], [only])
    if fixed:
        for value in [*proto.graph.input, *proto.graph.output]:
            for axis in value.type.tensor_type.shape.dim:
                if axis.dim_param == BATCH:
                    axis.dim_value = task.batch_size
    return proto


def _onnxruntime(task: Task, only: str, fixed: bool) -> ReadyStep:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    proto = _proto(task, only, fixed).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    images = _squares(task)
    return ReadyStep(lambda: session.run(None, {"images": images}), FACTS)


def _openvino(task: Task, only: str, fixed: bool) -> ReadyStep:
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": cores(), "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(_proto(task, only, fixed).SerializeToString())
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    images = _squares(task)
    return ReadyStep(lambda: request.infer([images], share_inputs=True, share_outputs=True), FACTS)
