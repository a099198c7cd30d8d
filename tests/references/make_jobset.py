"""Write jobset.json: the JSON Schemas of a JobSet, a Pod and a PersistentVolumeClaim, without descriptions.

Run it in an environment with kubeflow-trainer-api 2.3.0 and kubernetes-validate 1.37.0, both Apache-2.0:
python tests/references/make_jobset.py

The fields of JobSet come from the models of kubeflow-trainer-api, which are generated from the OpenAPI of
github.com/kubernetes-sigs/jobset, jobset.x-k8s.io/v1alpha2. The models lack its enumerations. These are written below,
from api/jobset/v1alpha2/jobset_types.go (816ba51). Everything else comes from kubernetes-validate, for Kubernetes 1.31:
later versions add fields and remove none.
"""

import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

KUBERNETES = "v1.31.0-local-strict"
JOBSET = "JobsetV1alpha2"
ENUMERATIONS = {
    ("FailurePolicy", "restartStrategy"): ["Recreate", "BlockingRecreate"],
    ("FailurePolicyRule", "action"): ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"],
    ("SuccessPolicy", "operator"): ["All", "Any"],
    ("StartupPolicy", "startupPolicyOrder"): ["AnyOrder", "InOrder"],
    ("DependsOn", "status"): ["Ready", "Complete"],
}
# The onJobFailureReasons that the controller's webhook accepts (pkg/webhooks/jobset_webhook.go, ec94252).
REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
ROOTS = ("JobSet", "io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.PersistentVolumeClaim")


def main() -> None:
    schemas = _of_kubernetes()
    schemas |= _of_jobset(schemas)
    reached = _reached(schemas, ROOTS)
    lines = (f"{json.dumps(name)}:{json.dumps(schemas[name], separators=(',', ':'))}" for name in sorted(reached))
    Path(__file__).with_name("jobset.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _of_kubernetes() -> dict[str, Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    return {name: _reduced(schema) for name, schema in definitions.items()}


def _of_jobset(kubernetes: dict[str, Any]) -> dict[str, Any]:
    from kubeflow_trainer_api import models

    whole = models.JobsetV1alpha2JobSet.model_json_schema(by_alias=True)
    names = {_plain(name): name for name in kubernetes}
    definitions = whole.pop("$defs") | {f"{JOBSET}JobSet": whole}
    schemas = {}
    for name, schema in definitions.items():
        if name.startswith(JOBSET):
            schemas[name.removeprefix(JOBSET)] = _reduced(schema, names) | {"additionalProperties": False}
    del schemas["JobSet"]["properties"]["status"]
    for (name, field), values in ENUMERATIONS.items():
        schemas[name]["properties"][field]["enum"] = values
    schemas["FailurePolicyRule"]["properties"]["onJobFailureReasons"]["items"]["enum"] = REASONS
    return schemas


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _reduced(schema: Any, names: dict[str, str] | None = None) -> Any:
    """Remove prose, and null, which means the same as leaving the field out."""
    if isinstance(schema, list):
        return [_reduced(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    alternatives = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    if len(alternatives) == 1:
        return _reduced(alternatives[0], names)
    reduced = {}
    for key, value in schema.items():
        if key in ("description", "title", "default", "format") and not isinstance(value, dict) or key.startswith("x-"):
            continue
        if key == "properties":
            reduced[key] = {name: _reduced(part, names) for name, part in value.items()}
        elif key == "type" and isinstance(value, list):
            (reduced[key],) = (kind for kind in value if kind != "null")
        elif key == "$ref":
            name = value.rpartition("/")[2]
            if names is not None:
                name = name.removeprefix(JOBSET) if name.startswith(JOBSET) else names[_plain(name)]
            reduced[key] = name
        else:
            reduced[key] = _reduced(value, names)
    return reduced


def _reached(schemas: dict[str, Any], roots: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += re.findall(r'"\$ref": "([^"]+)"', json.dumps(schemas[name]))
    return reached


if __name__ == "__main__":
    main()
