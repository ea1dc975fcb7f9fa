"""The files of `deploy/` are valid for Kubernetes, eksctl, kind and IAM, as far as published schemas can show."""

import copy
import importlib
import json
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml
from moto.iam.aws_managed_policies import aws_managed_policies_data

from workshop.project import ROOT, versions

DEPLOY = ROOT / "deploy"
KUBERNETES = versions()["KUBERNETES_VERSION"]
IMAGE = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/lessons@sha256:{'a' * 64}"
# A value for every variable in the files; the scripts fill in these variables.
VALUES = versions() | {
    "CLUSTER_NAME": "kubeflow-demo",
    "NODE_TYPE": "m6i.xlarge",
    "NODE_COUNT": "2",
    "NODE_SPOT": "false",
    "AWS_DEFAULT_REGION": "us-east-1",
    "POD_ENDPOINT": "http://seaweedfs.kubeflow:9000",
    "DISABLE_SSL": "true",
    "KUBEFLOW_NAMESPACE": "kubeflow-user-example-com",
    "SERVICE_ACCOUNT": "default-editor",
    "WORKSHOP_BUCKET": "my-bucket",
    "NOTEBOOK_IMAGE": IMAGE,
    "BUCKET": "my-bucket",
    "ACCOUNT": "123456789012",
    "ISSUER": "oidc.eks.us-east-1.amazonaws.com/id/0",
    "NAMESPACE": "kubeflow-user-example-com",
}


def fields(*required: str, **known) -> dict:
    """Return the JSON schema of an object with these fields and no others."""
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def array(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
SWITCH = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": TEXT}
ANY = {}  # `pods` checks these fields

# The used part of https://docs.aws.amazon.com/eks/latest/eksctl/schema.html
CLUSTER_CONFIG = fields(
    *("apiVersion", "kind", "metadata", "upgradePolicy", "autoModeConfig", "addonsConfig"),
    *("iam", "addons", "managedNodeGroups"),
    apiVersion={"const": "eksctl.io/v1alpha5"},
    kind={"const": "ClusterConfig"},
    metadata=fields("name", "region", "version", name=TEXT, region=TEXT, version=TEXT, tags=LABELS),
    upgradePolicy=fields("supportType", supportType={"enum": ["STANDARD", "EXTENDED"]}),
    autoModeConfig=fields("enabled", enabled=SWITCH),
    addonsConfig=fields(disableDefaultAddons=SWITCH),
    iam=fields("withOIDC", withOIDC=SWITCH),
    vpc=fields(nat=fields(gateway={"enum": ["Disable", "Single", "HighlyAvailable"]})),
    addons=array(fields("name", name=TEXT, wellKnownPolicies=fields(ebsCSIController=SWITCH))),
    managedNodeGroups=array(
        fields(
            *("name", "instanceTypes", "desiredCapacity"),
            name=TEXT,
            instanceTypes=array(TEXT),
            spot=SWITCH,
            desiredCapacity=COUNT,
            minSize=COUNT,
            maxSize=COUNT,
            volumeType={"enum": ["gp3"]},
            volumeSize=COUNT,
            volumeEncrypted=SWITCH,
            privateNetworking=SWITCH,
            tags=LABELS,
            iam=fields(attachPolicyARNs=array(TEXT)),
        )
    ),
)
METADATA = fields("name", "namespace", name=TEXT, namespace=TEXT, labels=LABELS)
# https://github.com/kubeflow/kubeflow/blob/master/components/admission-webhook/manifests/base/crd.yaml
POD_DEFAULT = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "kubeflow.org/v1alpha1"},
    kind={"const": "PodDefault"},
    metadata=METADATA,
    spec=fields(
        *("desc", "selector"),
        desc=TEXT,
        selector=fields("matchLabels", matchLabels=LABELS),
        env=ANY,
        volumes=ANY,
        volumeMounts=ANY,
    ),
)
# https://www.kubeflow.org/docs/components/notebooks/api-reference/notebook-v1/
NOTEBOOK = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "kubeflow.org/v1"},
    kind={"const": "Notebook"},
    metadata=METADATA,
    spec=fields("template", template=fields("spec", spec=ANY)),
)
# https://kind.sigs.k8s.io/docs/user/configuration/
KIND = fields(
    *("apiVersion", "kind", "nodes"),
    apiVersion={"const": "kind.x-k8s.io/v1alpha4"},
    kind={"const": "Cluster"},
    nodes=array(fields("role", "image", role={"enum": ["control-plane", "worker"]}, image=TEXT)),
)
# https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/
KUSTOMIZATION = fields(
    *("apiVersion", "kind", "resources"),
    apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
    kind={"const": "Kustomization"},
    resources=array(TEXT),
    patches=array(fields("patch", patch=TEXT)),
)
# https://www.kubeflow.org/docs/components/pipelines/operator-guides/configure-object-store/
PROVIDERS = fields(
    "s3",
    s3=fields(
        "default",
        default=fields(
            *("endpoint", "region", "credentials"),
            endpoint=TEXT,
            region=TEXT,
            disableSSL=SWITCH,
            forcePathStyle=SWITCH,
            credentials=fields(
                "fromEnv",
                fromEnv=SWITCH,
                secretRef=fields(
                    *("secretName", "accessKeyKey", "secretKeyKey"),
                    secretName=TEXT,
                    accessKeyKey=TEXT,
                    secretKeyKey=TEXT,
                ),
            ),
        ),
    ),
)
SCHEMAS = {
    "ClusterConfig": CLUSTER_CONFIG,
    "PodDefault": POD_DEFAULT,
    "Notebook": NOTEBOOK,
    "Cluster": KIND,
    "Kustomization": KUSTOMIZATION,
}


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\$\{([A-Z0-9_]+)\}", text))


def rendered(path) -> str:
    return re.sub(r"\$\{([A-Z0-9_]+)\}", lambda found: VALUES[found[1]], path.read_text())


def documents() -> dict[str, dict]:
    """Return all documents in the YAML files of deploy/, with values filled in, by file and kind."""
    return {
        f"{path.relative_to(DEPLOY)} {document['kind']}": document
        for path in sorted(DEPLOY.rglob("*.yaml"))
        for document in yaml.safe_load_all(rendered(path))
    }


def pods(document: dict) -> list[dict]:
    """Return the pods in a custom resource. Kubernetes' own schemas do not cover the inside of such a resource."""
    if document["kind"] == "Notebook":
        return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **document["spec"]["template"]}]
    if document["kind"] == "PodDefault":
        spec = document["spec"]
        container = {"name": "x", "env": spec.get("env", []), "volumeMounts": spec.get("volumeMounts", [])}
        pod = {"containers": [container], "volumes": spec.get("volumes", [])}
        return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}]
    return []


@pytest.fixture(scope="module")
def kubernetes_validate(tmp_path_factory):
    """The validator with Kubernetes' own schemas, installed in a separate folder; pyproject.toml says why."""
    folder = str(tmp_path_factory.mktemp("validator"))
    requirements = str(ROOT / "tests" / "deploy" / "requirements.txt")
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--target", folder]
    subprocess.run([*install, "--requirement", requirements], check=True)
    sys.path.append(folder)
    yield importlib.import_module("kubernetes_validate")
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "kubernetes_validate"]:
        del sys.modules[name]


@pytest.fixture
def check(kubernetes_validate):
    """Return a function that raises an error for an unknown field or a value of the wrong type in a document."""
    return lambda document: check_with(kubernetes_validate, document)


def check_with(kubernetes_validate, document: dict) -> None:
    schema = SCHEMAS.get(document["kind"])
    if schema:
        jsonschema.validate(document, schema)
    for object_ in pods(document) if schema else [document]:
        kubernetes_validate.validate(object_, KUBERNETES, strict=True)


DOCUMENTS = documents()
POLICIES = sorted((DEPLOY / "iam").glob("*.json"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_has_only_known_fields(check, name):
    check(DOCUMENTS[name])


@pytest.mark.parametrize(
    "name, path",
    [
        ("cluster.yaml ClusterConfig", ("managedNodeGroups", 0)),
        ("kind/cluster.yaml Cluster", ("nodes", 0)),
        ("kubeflow/kfp-launcher.yaml ConfigMap", ()),
        ("kubeflow/kfp-launcher-keys.yaml ConfigMap", ()),
        ("kubeflow/s3-access.yaml ConfigMap", ()),
        ("kubeflow/notebook.yaml Notebook", ("spec", "template", "spec", "containers", 0)),
        ("kubeflow/notebook.yaml PersistentVolumeClaim", ("spec",)),
        ("kubeflow/pipelines/kustomization.yaml Kustomization", ("patches", 0)),
        ("kubeflow/pod-default-pipelines.yaml PodDefault", ("spec", "volumes", 0, "projected", "sources", 0)),
        ("kubeflow/pod-default-s3.yaml PodDefault", ("spec", "env", 0, "valueFrom", "secretKeyRef")),
        ("kubeflow/storage-class.yaml StorageClass", ()),
    ],
    ids=str,
)
def test_a_misspelled_field_is_an_error(check, kubernetes_validate, name, path):
    document = copy.deepcopy(DOCUMENTS[name])
    place = document
    for step in path:
        place = place[step]
    place["misspelled"] = "x"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(document)


def test_a_misspelled_field_is_tried_in_every_document():
    marks = test_a_misspelled_field_is_an_error.pytestmark
    assert {name for name, _ in marks[0].args[1]} == set(DOCUMENTS)


@pytest.mark.parametrize("file", ["kfp-launcher.yaml", "kfp-launcher-keys.yaml"])
def test_the_launchers_configuration_has_only_known_fields(file):
    text = DOCUMENTS[f"kubeflow/{file} ConfigMap"]["data"]["providers"]
    jsonschema.validate(yaml.safe_load(text), PROVIDERS)


def test_the_scripts_give_each_template_exactly_its_variables():
    # render FILE NAME=VALUE..., or render_json, to the end of the command.
    scripts = "\n".join(path.read_text() for path in (ROOT / "scripts").glob("*.sh")).replace("\\\n", " ")
    calls = re.findall(r'render(?:_json)? "?(?:\$PROJECT/)?(deploy/[\w./-]+)"?(.*)', scripts)
    given = {file: set(re.findall(r"\b([A-Z_][A-Z0-9_]*)=", rest)) for file, rest in calls}
    templates = [path for path in DEPLOY.rglob("*") if path.is_file() and placeholders(path.read_text())]
    assert len(templates) > 5
    for path in templates:
        assert given.get(str(path.relative_to(ROOT))) == placeholders(path.read_text()), path


def test_a_script_lesson_or_the_readme_uses_every_file():
    scripts = [*(ROOT / "scripts").glob("*.sh"), *(ROOT / "scripts").glob("*.py")]
    files = [*scripts, *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]
    text = "\n".join(path.read_text() for path in files)
    unused = [path for path in DEPLOY.rglob("*") if path.is_file() and str(path.relative_to(ROOT)) not in text]
    assert unused == []


def test_every_image_has_a_digest():
    images = re.findall(r"\bimage: (\S+)", "".join(rendered(path) for path in DEPLOY.rglob("*.yaml")))
    assert len(images) >= 2
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images), images


def test_the_local_cluster_and_the_one_on_aws_have_the_same_kubernetes():
    (node,) = DOCUMENTS["kind/cluster.yaml Cluster"]["nodes"]
    assert node["image"].startswith(f"kindest/node:v{KUBERNETES}.")
    assert DOCUMENTS["cluster.yaml ClusterConfig"]["metadata"]["version"] == KUBERNETES


def test_at_the_end_of_its_support_the_cluster_does_not_become_more_expensive():
    config = DOCUMENTS["cluster.yaml ClusterConfig"]
    assert config["upgradePolicy"] == {"supportType": "STANDARD"}
    assert config["autoModeConfig"] == {"enabled": False} and config["addonsConfig"] == {"disableDefaultAddons": True}


def test_pipelines_are_installed_without_the_objects_that_need_a_certificate_of_the_kubelet():
    patches = DOCUMENTS["kubeflow/pipelines/kustomization.yaml Kustomization"]["patches"]
    removed = [yaml.safe_load(patch["patch"]) for patch in patches]
    assert all(patch["$patch"] == "delete" and patch["metadata"]["namespace"] == "kubeflow" for patch in removed)
    assert [(patch["kind"], patch["metadata"]["name"]) for patch in removed] == [
        ("Deployment", "cache-deployer-deployment"),
        ("Deployment", "cache-server"),
        ("Service", "cache-server"),
    ]


def test_nodes_have_exactly_the_policies_that_they_need_and_all_of_them_exist():
    (nodes,) = DOCUMENTS["cluster.yaml ClusterConfig"]["managedNodeGroups"]
    policies = [arn.removeprefix("arn:aws:iam::aws:policy/") for arn in nodes["iam"]["attachPolicyARNs"]]
    # https://docs.aws.amazon.com/eks/latest/userguide/create-node-role.html
    assert policies == ["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"]
    assert set(policies) <= set(json.loads(aws_managed_policies_data))


def test_billed_resources_of_the_cluster_carry_the_tag():
    config = DOCUMENTS["cluster.yaml ClusterConfig"]
    for tagged in (config["metadata"], *config["managedNodeGroups"]):
        assert tagged["tags"] == {"project": "first-kubeflow-pipeline"}


def test_the_pod_default_in_lesson_03_is_that_of_deploy():
    lesson = json.loads((ROOT / "notebooks/03_reach_s3.ipynb").read_text())
    (shown,) = [text for cell in lesson["cells"] if "kind: PodDefault" in (text := "".join(cell["source"]))]
    secret, pod_default = yaml.safe_load_all(shown.partition("```yaml\n")[2].partition("```")[0])
    ours = copy.deepcopy(DOCUMENTS["kubeflow/pod-default-s3.yaml PodDefault"])
    ours["spec"]["env"][2]["value"] = "http://..."
    assert pod_default == ours
    keys = {variable["valueFrom"]["secretKeyRef"]["key"] for variable in ours["spec"]["env"][:2]}
    assert keys == set(secret["stringData"])


def problems(policy: dict) -> list[str]:
    """Return the problems that cfn-lint finds in a policy. cfn-lint knows IAM's policy language and all actions."""
    trust = any("Principal" in statement for statement in policy["Statement"])
    kind, field = ("Role", "AssumeRolePolicyDocument") if trust else ("ManagedPolicy", "PolicyDocument")
    template = {"Resources": {"It": {"Type": f"AWS::IAM::{kind}", "Properties": {field: policy}}}}
    import cfnlint.api  # takes seconds, which no other test should wait for

    found = cfnlint.api.lint_all(json.dumps(template))
    # Rules that begin with I are advice on CloudFormation templates; the template here is only a wrapper.
    return [f"{match.rule.id} {match.message}" for match in found if match.rule.id[0] in "EW"]


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
@pytest.mark.slow
def test_policies_are_valid_for_iam(path):
    assert problems(json.loads(rendered(path))) == []


@pytest.mark.parametrize("change", [{"Action": "s3:ListBuckets"}, {"Efect": "Allow"}, {"Effect": "Maybe"}], ids=str)
@pytest.mark.slow
def test_a_mistake_in_a_policy_is_a_problem(change):
    policy = json.loads(rendered(DEPLOY / "iam/s3-one-bucket.json"))
    policy["Statement"][0] |= change
    assert problems(policy)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_no_policy_allows_all_actions_or_all_resources(path):
    for statement in json.loads(rendered(path))["Statement"]:
        assert not {"NotAction", "NotResource", "NotPrincipal"} & set(statement)
        actions, resources = (statement.get(name, []) for name in ("Action", "Resource"))
        for action in [actions] if isinstance(actions, str) else actions:
            assert "*" not in action
        for resource in [resources] if isinstance(resources, str) else resources:
            assert resource.startswith("arn:") and not resource.endswith(":::*")
        assert statement.get("Principal") != "*"


def test_rights_on_the_bucket_and_rights_on_its_objects_have_the_right_resource():
    of_objects = {"s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}
    for statement in json.loads(rendered(DEPLOY / "iam/s3-one-bucket.json"))["Statement"]:
        for action in statement["Action"]:
            assert (action in of_objects or "Object" in action) == statement["Resource"].endswith("/*"), action
