"""Collect the nodes and constants of an ONNX graph, each under a name that says what it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Graph:
    """A graph that grows. A node has one result, of the node's own name.

    Attributes:
      nodes: in the order in which they are computed.
      constants: by name.
    """

    def __init__(self, prefix: str = "", within: "Graph | None" = None) -> None:
        """Start with an empty graph, or continue one: see `part`."""
        self.nodes: list[NodeProto] = within.nodes if within else []
        self.constants: dict[str, TensorProto] = within.constants if within else {}
        self._prefix = prefix

    def part(self, name: str) -> "Graph":
        """Return this graph, but names of what is added start with `name` and a dot; an empty name changes nothing."""
        return Graph(f"{self._prefix}{name}." if name else self._prefix, self)

    def add(self, operation: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node; return its name, which is that of its result too."""
        name = self._prefix + name
        self.nodes.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def split(
        self, tensor: str, names: Sequence[str], axis: int, sizes: Int64[np.ndarray, " parts"] | None = None
    ) -> list[str]:
        """Divide a tensor along an axis into parts of these names, of the given sizes or equal ones."""
        names = [self._prefix + name for name in names]
        inputs = [tensor] if sizes is None else [tensor, self.constant("split.sizes", sizes)]
        node = helper.make_node("Split", inputs, names, f"{tensor}.split", axis=axis)
        if sizes is None:
            node.attribute.append(helper.make_attribute("num_outputs", len(names)))
        self.nodes.append(node)
        return names

    def lowest(self, tensor: str, count: int, name: str) -> str:
        """Find the `count` lowest values of each row of a matrix, in ascending order."""
        name = self._prefix + name
        results = [name, f"{name}.places"]
        node = helper.make_node("TopK", [tensor, self.axis(count)], results, name, axis=1, largest=0, sorted=1)
        self.nodes.append(node)
        return name

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add a constant; return its name."""
        name = self._prefix + name
        self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def int32(self, value: int) -> str:
        """Return the name of a scalar, which all parts of the graph share."""
        return self._shared(f"int32.{value}", np.int32(value))

    def axis(self, value: int) -> str:
        """Return the name of an array of one int64, which all parts of the graph share."""
        return self._shared(f"axis.{value}", np.array([value], np.int64))

    def shape(self, *sides: int) -> str:
        """Return the name of a shape, which all parts of the graph share."""
        return self._shared(f"shape.{'x'.join(map(str, sides))}", np.array(sides, np.int64))

    def _shared(self, name: str, value: np.ndarray | np.generic) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name
