"""The unit file and the Deployment of `--mode=pacs`: their commands parse, and nothing acknowledged is lost by them."""

import configparser
import re
import shlex

import pytest
import yaml
from support import ROOT
from test_jobset import SCHEMAS, problems

from pneumojax.pacs import pacs_settings
from pneumojax.runtime import config as configs
from pneumojax.runtime.config import split_overrides
from pneumojax.runtime.errors import ExitStatus
from pneumojax.workflows import run_config

DOCUMENTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "launch/pacs.yaml").read_text())}
UNIT = (ROOT / "launch/pneumojax-pacs.service").read_text().replace("\\\n", " ")
POD = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]


@pytest.fixture
def unit():
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read_string(UNIT)
    return parser["Service"]


@pytest.mark.parametrize("source", ["unit", "deployment"])
def test_the_command_is_one_of_the_program(source, unit):
    words = shlex.split(unit["ExecStart"])[3:] if source == "unit" else CONTAINER["args"]
    flags, overrides = split_overrides(words)
    given = dict(flag.removeprefix("--").split("=") for flag in flags)
    assert given["mode"] == "pacs" and given.keys() == {"mode", "model", "workdir"}
    rules = (pacs_settings.rules,)
    config = run_config.completed(configs.load("m1"), overrides, further_rules=rules).pacs
    assert config.listen == 11112 and config.peers and config.dicomweb.startswith("https://")
    assert not config.queue.startswith(given["workdir"])


def test_the_pod_the_claim_and_the_service_have_no_unknown_field():
    assert problems(SCHEMAS["io.k8s.api.core.v1.PodSpec"], POD) == []
    claim = DOCUMENTS["PersistentVolumeClaim"]
    assert problems(SCHEMAS["io.k8s.api.core.v1.PersistentVolumeClaim"], claim) == []
    labels = DOCUMENTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert DOCUMENTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert DOCUMENTS["Service"]["spec"]["selector"] == labels
    broken = POD | {"containers": [CONTAINER | {"livenesProbe": {}}]}
    assert problems(SCHEMAS["io.k8s.api.core.v1.PodSpec"], broken), "a mistake is found"


def test_the_queue_is_one_pods_and_outlives_it():
    assert DOCUMENTS["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert DOCUMENTS["Deployment"]["spec"]["replicas"] == 1
    assert DOCUMENTS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOncePod"]
    [state] = [volume for volume in POD["volumes"] if volume["name"] == "state"]
    assert state["persistentVolumeClaim"]["claimName"] == DOCUMENTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert POD["terminationGracePeriodSeconds"] > 60


def test_probes_look_at_what_the_program_does():
    [port] = CONTAINER["ports"]
    assert CONTAINER["startupProbe"]["tcpSocket"] == CONTAINER["readinessProbe"]["tcpSocket"] == {"port": port["name"]}
    [queue] = [word.partition("=")[2] for word in CONTAINER["args"] if word.startswith("--config.pacs.queue=")]
    assert f"{queue}/alive" in CONTAINER["livenessProbe"]["exec"]["command"][2]


def test_the_unit_starts_again_unless_it_was_stopped_or_has_a_mistake(unit):
    assert unit["Restart"] == "on-failure"
    assert int(unit["SuccessExitStatus"]) == ExitStatus.STOPPED
    assert int(unit["RestartPreventExitStatus"]) == ExitStatus.USER_ERROR
    assert unit["KillMode"] == "mixed", "the processes that decode would end before the program"


def test_secrets_are_not_in_the_command(unit):
    for command in (unit["ExecStart"], " ".join(CONTAINER["args"])):
        assert re.search(r"pacs\.credentials=\S+", command)
        assert "token" not in command.lower() and "password" not in command.lower()
    [secret] = [volume["secret"] for volume in POD["volumes"] if volume["name"] == "secret"]
    assert secret["defaultMode"] & 0o007 == 0, "the program refuses a secret that all can read"
