"""Hostile uploads and requests are refused with a reason, soon, and with little memory."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests

from tests.support.attacks import Peak, server_process
from workshop.sandbox.pipelines_api import package
from workshop.sandbox.pipelines_api.errors import ApiError

pytestmark = [pytest.mark.attack]

REFUSED_WITHIN_SECONDS = 2
GROWTH_MB = 300
HEAD = "pipelineInfo: {name: hostile}\nschemaVersion: 2.1.0\nsdkVersion: kfp-2.16.1\n"


def merge_keys(levels: int) -> bytes:
    """Return YAML whose merge keys double the work at each level."""
    lines = ["a0: &a0 {k0: x}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels))]
    return "\n".join(lines).encode()


def texts_by_alias() -> bytes:
    """Return 1 MB of YAML that holds 1,000 MB of text when its aliases are written out."""
    return b"a: &a " + b"x" * 1_000_000 + b"\nb: [" + b"*a," * 1_000 + b"*a]"


def nested(spec: dict, levels: int) -> dict:
    """Return a pipeline in which ten tasks of each component refer to the next component."""

    def dag(name: str) -> dict:
        return {"tasks": {f"t{n}": {"taskInfo": {"name": f"t{n}"}, "componentRef": {"name": name}} for n in range(10)}}

    below = {f"comp-{n}": {"dag": dag(f"comp-{n + 1}")} for n in range(levels)}
    leaf = {f"comp-{levels}": spec["components"]["comp-say"]}
    return spec | {"root": {"dag": dag("comp-0")}, "components": below | leaf}


SMALL = {
    "merge keys": merge_keys(30),
    "text repeated by aliases": texts_by_alias(),
    "alias inside of its own value": b"a: &a [*a]",
    "alias without a value": b"a: *b",
    "integer with a tag": b'a: !!int ""',
    "float with a tag": b'a: !!float ""',
    "boolean with a tag": b"a: !!bool maybe",
    "time with a tag": b"a: !!timestamp x",
    "object of Python": b"a: !!python/object/apply:os.system [true]",
    "binary": b"a: !!binary x",
    "hexadecimal integer of 5,000 digits": b"a: 0x" + b"f" * 5_000,
    "integer of 5,000 digits": b"a: " + b"1" * 5_000,
    "integer of 5,000 digits in JSON": b'{"a": ' + b"1" * 5_000 + b"}",
    "sexagesimal float": b"a: " + b"1:" * 400 + b"1.5",
    "infinity": b"a: .inf",
    "infinity by its exponent": b"a: 1.0e+999",
    "infinity by its exponent in JSON": b'{"a": 1e999}',
    "a key that is a list": b"? [a]\n: b",
    "1,000 levels": b"a: " + b"[" * 1_000 + b"]" * 1_000,
    "control letters": b"a: \x00",
    "UTF-16": "a: 1".encode("utf-16"),
}
LARGE = {
    "sexagesimal integer of 0.8 MB": b"a: " + b"1:" * 400_000 + b"1",
    "32 MB of lists": b"a: [" + b"[]," * (10 << 20) + b"[]]",
    "32 MB of lists in JSON": b'{"a": [' + b"[]," * (10 << 20) + b"[]]}",
    "32 MB of one key in JSON": b'{"' + b"x" * (31 << 20) + b'": 1}',
    "32 MB of text outside of ASCII": b"a: " + "🙂".encode() * (7 << 20),
    "32 MB of quotation marks": b'{"a": "' + b'\\"' * (15 << 20),
    "32 MB of opened lists": b"[" * (31 << 20),
    "32 MB of comments": b"#\n" * (15 << 20),
    "32 MB of documents": b"---\n" * (7 << 20),
    "32 MB of anchors": b"".join(b"- &a%d x\n" % n for n in range(2_300_000)),
    "140,000 unknown fields": json.dumps({f"f{n}": n for n in range(70_000)}).encode(),
    "an error after 140,000 values": json.dumps(
        {"root": {"inputDefinitions": {"parameters": {"a": {"defaultValue": [1] * 140_000}}}}, "zzz": 1}
    ).encode(),
}


def refusal(content: bytes) -> str:
    """Return why a file is refused. The processor time of this thread is limited."""
    begun = time.thread_time()
    with pytest.raises(ApiError) as raised:
        package.read_file(content, "hostile.yaml")
    assert raised.value.status == 400
    assert time.thread_time() - begun < REFUSED_WITHIN_SECONDS
    assert len(raised.value.message) < 5_000
    return raised.value.message


@pytest.mark.parametrize("content", SMALL.values(), ids=SMALL)
def test_a_small_hostile_file_is_refused(content):
    refusal(content)


@pytest.mark.slow
@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
def test_a_large_hostile_file_is_refused_soon_and_with_little_memory(content, api):
    process = server_process(api)
    with Peak(process) as peak:
        answer = api.session.post(f"{api.base}/pipelines/upload", files={"uploadfile": ("h.yaml", content)}, timeout=60)
    assert answer.status_code == 400, answer.text[:500]
    assert peak.processor_seconds < REFUSED_WITHIN_SECONDS, peak
    assert peak.growth_mb < GROWTH_MB, peak


def run_refusal(api, spec: dict) -> str:
    begun = time.thread_time()
    message = api.refused(400, "POST", "/runs", json={"display_name": "r", "pipeline_spec": spec})
    assert time.thread_time() - begun < REFUSED_WITHIN_SECONDS
    return message


def with_tasks(spec: dict, tasks: dict, **dag) -> dict:
    """Return a pipeline with other tasks in its root."""
    return spec | {"root": spec["root"] | {"dag": spec["root"]["dag"] | {"tasks": tasks} | dag}}


def task_of(spec: dict, name: str, *after: str, **inputs) -> dict:
    """Return a task that says a text."""
    text = {"text": {"runtimeValue": {"constant": "x"}}} | inputs
    return {
        "taskInfo": {"name": name},
        "componentRef": {"name": "comp-say"},
        "inputs": {"parameters": text},
        "dependentTasks": list(after),
    }


def taken(task: str, output: str) -> dict:
    return {"text": {"taskOutputParameter": {"producerTask": task, "outputParameterKey": output}}}


def hostile_tasks(spec: dict) -> dict[str, tuple[dict, str]]:
    """Return pipelines whose tasks cannot start, with a part of the message."""
    return {
        "itself": (with_tasks(spec, {"a": task_of(spec, "a", "a")}), "'a' depends on itself"),
        "absent": (with_tasks(spec, {"a": task_of(spec, "a", "gone")}), "'a' depends on the task 'gone'"),
        "cycle": (
            with_tasks(spec, {"a": task_of(spec, "a", "b"), "b": task_of(spec, "b", "a")}),
            "'a', 'b' wait for each other",
        ),
        "source": (with_tasks(spec, {"a": task_of(spec, "a", **taken("gone", "Output"))}), "the task 'gone'"),
        "output": (
            with_tasks(spec, {"a": task_of(spec, "a"), "b": task_of(spec, "b", **taken("a", "gone"))}),
            "'b' takes the output 'gone', which the task 'a' does not have",
        ),
        "result": (
            with_tasks(
                spec,
                {"a": task_of(spec, "a")},
                outputs={"parameters": {"Output": {"valueFromParameter": {"producerSubtask": "gone"}}}},
            ),
            "the output 'Output' comes from the task 'gone'",
        ),
        "component in itself": (
            spec | {"root": nested(spec, 1)["root"], "components": {"comp-0": nested(spec, 1)["root"]}},
            "contains itself",
        ),
        "10 to the power of 20 tasks": (nested(spec, 20), "more than 10,000 tasks"),
        "1,000 levels": (nested(spec, 1_000), "below more than 50 other tasks"),
    }


@pytest.mark.parametrize("name", hostile_tasks({"root": {"dag": {}}, "components": {"comp-say": {}}}))
def test_tasks_that_cannot_start_are_refused_by_name_at_upload_and_at_run_creation(api, echo, name):
    spec, said = hostile_tasks(echo)[name]
    assert said in refusal(json.dumps(spec).encode())
    assert said in run_refusal(api, spec)


@pytest.mark.parametrize(
    "condition",
    ["!" * 10_001 + "true", "-" * 9_999 + "1", "(" * 5_000, "1+" * 9_000 + "1", "@" * 20_000, "a" * 1_000_000, "\x00"],
    ids=["not", "minus", "brackets", "plus", "at", "letters", "NUL"],
)
def test_a_hostile_condition_is_refused_or_fails_the_run(api, echo, condition):
    task = task_of(echo, "a") | {"triggerPolicy": {"condition": condition}}
    spec = with_tasks(echo, {"a": task})
    answer = api.session.post(f"{api.base}/runs", json={"display_name": "r", "pipeline_spec": spec}, timeout=60)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert api.await_state(answer.json()["run_id"])["state"] == "FAILED"


@pytest.mark.parametrize("operation", ["EQUALS", "IS_SUBSTRING", "LESS_THAN"])
def test_a_filter_of_50_000_letters_is_refused(api, operation):
    predicate = {"operation": operation, "key": "name", "string_value": "x" * 50_000}
    said = api.refused(400, "GET", "/runs", params={"filter": json.dumps({"predicates": [predicate]})})
    assert "50,000 letters" in said


@pytest.mark.parametrize("field", ["value", "sequence"])
def test_a_page_token_with_a_boolean_is_refused(api, field):
    token = {"sort_by": "", "filter": "", "value": 1, "sequence": 1} | {field: True}
    text = base64.urlsafe_b64encode(json.dumps(token).encode()).decode()
    assert "page token" in api.refused(400, "GET", "/runs", params={"page_token": text})


def test_filters_ignore_the_case_of_letters_outside_of_ascii(client, unique):
    name = f"Élan ÄÖ {unique}"
    made = client.create_experiment(name)
    assert client.get_experiment(experiment_name=name).experiment_id == made.experiment_id
    assert client.create_experiment(name).experiment_id == made.experiment_id
    for operation, value in (
        ("EQUALS", {"string_value": name.lower()}),
        ("IN", {"string_values": {"values": [name.upper()]}}),
        ("IS_SUBSTRING", {"string_value": "éLAN äö"}),
    ):
        wanted = json.dumps({"predicates": [{"operation": operation, "key": "name"} | value]})
        found = client.list_experiments(filter=wanted).experiments or []
        assert made.experiment_id in [one.experiment_id for one in found], operation


@pytest.mark.slow
def test_a_request_with_a_million_values_is_refused_while_others_are_answered(api, echo):
    body = b'{"display_name": "r", "runtime_config": {"parameters": {"a": [' + b"[]," * (10 << 20) + b"[]]}}}"
    with Peak(server_process(api)) as peak:
        answer = api.session.post(
            f"{api.base}/runs", data=body, headers={"Content-Type": "application/json"}, timeout=60
        )
    assert answer.status_code == 400 and "more than 600,000 values" in answer.text
    assert peak.processor_seconds < REFUSED_WITHIN_SECONDS, peak
    assert peak.growth_mb < GROWTH_MB, peak


@pytest.fixture
def drips():
    """The address of a server that sends a header byte by byte, without an end."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not ended.wait(0.5):
                connection.sendall(b"x")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/p.yaml"
    ended.set()
    listener.close()


@pytest.mark.slow
def test_downloads_that_arrive_byte_by_byte_block_nobody_and_end(own_api, drips):
    def ask(number: int) -> requests.Response:
        body = {"pipeline": {"name": f"p{number}"}, "pipeline_version": {"package_url": {"pipeline_url": drips}}}
        return requests.post(f"{own_api.base}/pipelines/create", json=body, timeout=60)

    with ThreadPoolExecutor(42) as pool:
        asked = [pool.submit(ask, number) for number in range(42)]
        time.sleep(1)
        for _ in range(5):
            own_api.call("GET", "/experiments", timeout=5)
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {400}
    assert "longer than 20 s" in answers[0].text
    own_api.call("GET", "/experiments", timeout=5)
