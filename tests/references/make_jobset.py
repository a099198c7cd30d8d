"""Writes jobset.json: what a JobSet, a Pod and a PersistentVolumeClaim may hold, as JSON Schema without descriptions.

In an environment with kubeflow-trainer-api 2.3.0 and kubernetes-validate 1.37.0, both Apache-2.0:
python tests/references/make_jobset.py

JobSet's own fields are those of kubeflow-trainer-api's models, which are made from the OpenAPI of
github.com/kubernetes-sigs/jobset, jobset.x-k8s.io/v1alpha2. They lack its enumerations: those are below, as
api/jobset/v1alpha2/jobset_types.go has them (816ba51). Everything else is Kubernetes 1.31's own, from
kubernetes-validate: later versions add fields and take none away.
"""

import json
import re
from importlib.resources import files
from pathlib import Path

KUBERNETES = "v1.31.0-local-strict"
JOBSET = "JobsetV1alpha2"
ENUMERATIONS = {
    ("FailurePolicy", "restartStrategy"): ["Recreate", "BlockingRecreate"],
    ("FailurePolicyRule", "action"): ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"],
    ("SuccessPolicy", "operator"): ["All", "Any"],
    ("StartupPolicy", "startupPolicyOrder"): ["AnyOrder", "InOrder"],
    ("DependsOn", "status"): ["Ready", "Complete"],
}
# What the controller's webhook takes as onJobFailureReasons (pkg/webhooks/jobset_webhook.go, ec94252).
REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
ROOTS = ("JobSet", "io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.PersistentVolumeClaim")


def main() -> None:
    schemas = _of_kubernetes()
    schemas |= _of_jobset(schemas)
    reached = _reached(schemas, ROOTS)
    lines = (f"{json.dumps(name)}:{json.dumps(schemas[name], separators=(',', ':'))}" for name in sorted(reached))
    Path(__file__).with_name("jobset.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _of_kubernetes() -> dict:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    return {name: _reduced(schema) for name, schema in definitions.items()}


def _of_jobset(kubernetes: dict) -> dict:
    from kubeflow_trainer_api import models

    whole = models.JobsetV1alpha2JobSet.model_json_schema(by_alias=True)
    names = {_plain(name): name for name in kubernetes}
    found = whole.pop("$defs") | {f"{JOBSET}JobSet": whole}
    schemas = {}
    for name, schema in found.items():
        if name.startswith(JOBSET):
            schemas[name.removeprefix(JOBSET)] = _reduced(schema, names) | {"additionalProperties": False}
    del schemas["JobSet"]["properties"]["status"]
    for (name, field), values in ENUMERATIONS.items():
        schemas[name]["properties"][field]["enum"] = values
    schemas["FailurePolicyRule"]["properties"]["onJobFailureReasons"]["items"]["enum"] = REASONS
    return schemas


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _reduced(schema, names=None):
    """Without prose, and without null, which says the same as a field that is left out."""
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
            own = name.removeprefix(JOBSET) if names is not None else name
            reduced[key] = own if names is None or name.startswith(JOBSET) else names[_plain(name)]
        else:
            reduced[key] = _reduced(value, names)
    return reduced


def _reached(schemas: dict, roots) -> set[str]:
    reached, ahead = set(), list(roots)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += re.findall(r'"\$ref": "([^"]+)"', json.dumps(schemas[name]))
    return reached


if __name__ == "__main__":
    main()
