"""The files for Kubernetes are valid, and a pod that ends has the right consequences.

references/jobset.json has the schemas of JobSets, Pods and claims. references/make_jobset.py made it and names its
sources.
"""

import copy
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from pneumojax import __version__

ROOT = Path(__file__).parents[2]
SCHEMAS = json.loads((ROOT / "tests/references/jobset.json").read_text())
FILES = ("jobset.yaml", "jobset-tpu.yaml")
ROOTS = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): "JobSet",
    ("v1", "Pod"): "io.k8s.api.core.v1.Pod",
    ("v1", "PersistentVolumeClaim"): "io.k8s.api.core.v1.PersistentVolumeClaim",
}
TYPES = {"array": list, "boolean": bool, "integer": int, "number": (int, float), "object": dict, "string": str}


def problems(schema: dict, value, place: str = "") -> list[str]:
    """List what the schema does not allow in `value`, including unknown fields: the API would drop those."""
    if "$ref" in schema:
        return problems(SCHEMAS[schema["$ref"]], value, place)
    if "oneOf" in schema:
        valid = any(not problems(choice, value) for choice in schema["oneOf"])
        return [] if valid else [f"{place}: {value!r} matches no schema"]
    if "type" in schema and (
        not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool) and schema["type"] != "boolean"
    ):
        return [f"{place}: {value!r} is not of type {schema['type']}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value!r} is not one of {schema['enum']}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += problems(schema.get("items", {}), item, f"{place}[{number}]")
    if isinstance(value, dict):
        found += [f"{place}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        others = schema.get("additionalProperties", True)
        for name, item in value.items():
            if name in schema.get("properties", {}):
                found += problems(schema["properties"][name], item, f"{place}.{name}")
            elif others is False:
                found.append(f"{place}.{name} is unknown")
            elif others is not True:
                found += problems(others, item, f"{place}.{name}")
    return found


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((ROOT / "launch" / name).read_text()))


@pytest.fixture(params=FILES)
def jobset(request) -> dict:
    (only,) = documents(request.param)
    return only


def job(jobset: dict) -> dict:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod(jobset: dict) -> dict:
    return job(jobset)["template"]["spec"]


def container(jobset: dict) -> dict:
    (only,) = pod(jobset)["containers"]
    return only


def flags(jobset: dict) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in container(jobset)["args"])


@pytest.mark.parametrize("name", [*FILES, "storage.yaml"])
def test_the_file_matches_the_schemas(name):
    for document in documents(name):
        assert problems(SCHEMAS[ROOTS[document["apiVersion"], document["kind"]]], document, document["kind"]) == []


def _spec(broken):
    return broken["spec"]


def _rule(broken):
    return job(broken)["podFailurePolicy"]["rules"][0]


@pytest.mark.parametrize(
    ("part", "field", "value", "place"),
    [
        (_spec, "failurPolicy", {}, "JobSet.spec.failurPolicy is unknown"),
        (_spec, "suspend", "no", "JobSet.spec.suspend: 'no' is not of type boolean"),
        (lambda broken: broken["spec"]["failurePolicy"], "maxRestarts", "20", "'20' is not of type integer"),
        (lambda broken: broken["spec"]["failurePolicy"], "restartStrategy", "Blocking", "'Blocking' is not one of"),
        (lambda broken: broken["spec"]["failurePolicy"]["rules"][0], "onJobFailureReasons", ["Exit2"], "is not one of"),
        (job, "completion", 2, ".completion is unknown"),
        (job, "backoffLimit", True, "backoffLimit: True is not of type integer"),
        (_rule, "onExitCodes", {"operator": "In"}, ".onExitCodes.values is missing"),
        (pod, "containers", {}, "containers: {} is not of type array"),
        (pod, "nodeSelector", {"topology": 4}, "nodeSelector.topology: 4 is not of type string"),
        (container, "arg", [], ".arg is unknown"),
        (container, "resources", {"limits": {"nvidia.com/gpu": [1]}}, "matches no schema"),
    ],
)
def test_the_schemas_find_a_mistake(jobset, part, field, value, place):
    part(jobset)[field] = value
    found = problems(SCHEMAS["JobSet"], jobset, "JobSet")
    assert len(found) == 1
    assert place in found[0]


def test_the_schemas_find_a_missing_name(jobset):
    del jobset["spec"]["replicatedJobs"][0]["name"]
    assert problems(SCHEMAS["JobSet"], jobset, "JobSet") == ["JobSet.spec.replicatedJobs[0].name is missing"]


def fate(jobset: dict, *pods: tuple[int, bool], restarts: int = 0) -> str:
    """Return what JobSet does when pods fail: "replace" pods, "restart" all, or "fail".

    The Job controller of Kubernetes applies podFailurePolicy before it counts failed pods against backoffLimit. The
    JobSet controller applies its first rule for the Job's reason, and restarts if there is none.

    Args:
      jobset: the JobSet.
      pods: for each failed pod, its exit status, and whether its node was taken away.
      restarts: how often the JobSet has restarted already.
    """
    rules = job(jobset)["podFailurePolicy"]["rules"]
    actions = [next((rule["action"] for rule in rules if _matches(rule, *pod)), "Count") for pod in pods]
    if "FailJob" in actions:
        reason = "PodFailurePolicy"
    elif actions.count("Count") > job(jobset).get("backoffLimit", 6):
        reason = "BackoffLimitExceeded"
    else:
        return "replace"
    policy = jobset["spec"]["failurePolicy"]
    matching = (rule for rule in policy.get("rules", ()) if reason in rule.get("onJobFailureReasons", [reason]))
    action = next((rule["action"] for rule in matching), "RestartJobSet")
    if action == "FailJobSet" or action == "RestartJobSet" and restarts >= policy.get("maxRestarts", 0):
        return "fail"
    return "restart"


def _matches(rule: dict, status: int, disrupted: bool) -> bool:
    if codes := rule.get("onExitCodes"):
        return status != 0 and (status in codes["values"]) == (codes["operator"] == "In")
    return disrupted and any(condition["type"] == "DisruptionTarget" for condition in rule["onPodConditions"])


@pytest.mark.parametrize("disrupted", [False, True])
@pytest.mark.parametrize("status", [75, 76, 1, 137])
def test_all_pods_restart_when_one_stops(jobset, status, disrupted):
    """A single new pod could not join a job that is already running."""
    assert fate(jobset, (status, disrupted)) == "restart"
    assert fate(jobset, (status, disrupted), (76, False)) == "restart"


def test_restarts_are_bounded(jobset):
    most = jobset["spec"]["failurePolicy"]["maxRestarts"]
    assert fate(jobset, (75, True), restarts=most - 1) == "restart"
    assert fate(jobset, (75, True), restarts=most) == "fail"


def test_a_mistake_is_not_retried(jobset):
    assert fate(jobset, (2, False)) == "fail"
    assert fate(jobset, (76, False), (2, False)) == "fail"


def test_other_policies_have_other_consequences(jobset):
    """This shows that the tests above can fail."""
    lenient = copy.deepcopy(jobset)
    del lenient["spec"]["failurePolicy"]["rules"]
    assert fate(lenient, (2, False)) == "restart"
    strict = copy.deepcopy(jobset)
    _rule(strict)["onExitCodes"]["values"] = [2, 75]
    assert fate(strict, (75, False)) == "fail"
    alone = copy.deepcopy(jobset)
    job(alone)["podFailurePolicy"]["rules"] = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
    assert fate(alone, (75, True)) == "replace"


def test_old_pods_are_gone_before_new_ones_start(jobset):
    """Otherwise both would write to the workdir."""
    assert jobset["spec"]["failurePolicy"]["restartStrategy"] == "BlockingRecreate"


def test_a_stopped_run_has_time_to_save(jobset):
    assert pod(jobset)["terminationGracePeriodSeconds"] >= 60
    assert pod(jobset)["restartPolicy"] == "Never"  # required by podFailurePolicy


def test_signals_reach_python(jobset):
    assert container(jobset)["command"] == ["python", "-m", "pneumojax.main"]


def test_each_pod_is_one_process(jobset):
    assert job(jobset)["completionMode"] == "Indexed"
    assert job(jobset)["parallelism"] == job(jobset)["completions"]
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 1


def test_gpu_processes_find_each_other():
    (jobset,) = documents("jobset.yaml")
    given = flags(jobset)
    assert int(given["processes"]) == job(jobset)["parallelism"]
    assert given["process"] == "$(JOB_COMPLETION_INDEX)"
    name, (replicated,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    host, port = given["coordinator"].split(":")
    assert host == f"{name}-{replicated['name']}-0-0.{name}"
    assert 1024 <= int(port) < 65536
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def test_tpu_pods_use_all_chips_of_the_slice():
    (jobset,) = documents("jobset-tpu.yaml")
    sides = pod(jobset)["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(container(jobset)["resources"]["limits"]["google.com/tpu"])
    assert int(sides[0]) * int(sides[1]) == chips * job(jobset)["parallelism"]
    assert flags(jobset)["processes"] == "auto"
    assert not {"coordinator", "process"} & set(flags(jobset))


def test_the_batch_can_be_divided_over_the_devices(jobset):
    from configs import m1

    limits = container(jobset)["resources"]["limits"]
    devices = job(jobset)["parallelism"] * int(limits.get("nvidia.com/gpu") or limits["google.com/tpu"])
    assert m1.get_config().batch_size % devices == 0


def test_the_image_is_the_one_that_the_dockerfile_builds(jobset):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = "tpu" if jobset["metadata"]["name"].endswith("-tpu") else "cuda"
    assert extra in project["optional-dependencies"]
    image = f"pneumojax:{__version__}-{extra}"
    assert container(jobset)["image"] == image
    if extra == "cuda":
        assert f"--tag {image}" in (ROOT / "launch/Dockerfile").read_text()


def test_paths_lie_on_the_claimed_volume(jobset):
    claim, storage_pod = documents("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod(jobset)["volumes"]}
    assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {mount["mountPath"]: mount for mount in container(jobset)["volumeMounts"]}
    given = flags(jobset)
    assert mounts[given["data"]]["readOnly"]
    made = re.findall(r"/storage/(\w+)", storage_pod["spec"]["containers"][0]["command"][-1])
    assert mounts[given["data"]]["subPath"] in made
    for path in (given["workdir"], given["config.data.cache_dir"]):
        assert path.split("/")[1] == "storage"
        assert path.split("/")[2] in made
    assert not mounts["/storage"].get("readOnly")


def test_gpu_pods_run_as_the_images_user():
    """That user also owns the folders on the volume."""
    (gpu,) = documents("jobset.yaml")
    user = pod(gpu)["securityContext"]["runAsUser"]
    assert f"useradd --uid {user} " in (ROOT / "launch/Dockerfile").read_text()
    assert f"-o {user} -g {pod(gpu)['securityContext']['runAsGroup']}" in str(documents("storage.yaml"))


def test_flags_exist(jobset):
    from pneumojax import main  # noqa: F401, defines the flags
    from pneumojax.runtime.config import split_overrides

    plain, overrides = split_overrides(["pneumojax", *container(jobset)["args"]])
    names = {argument.removeprefix("--").split("=")[0] for argument in plain[1:]}
    assert names <= set(main.FLAGS)
    assert overrides == [f"data.cache_dir={flags(jobset)['config.data.cache_dir']}"]
