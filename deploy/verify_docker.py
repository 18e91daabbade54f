#!/usr/bin/env python3
"""Build both images, bring the compose project up, score through the published port, break it, take it down.

Needs a Docker engine, Compose (v1.29 or v2), the images python:3.11-slim and redis:7, and a finished pipeline
(`make demo`). Runs as a project of its own on a port of its own, and leaves nothing running. Standard library
only: `python3 deploy/verify_docker.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = os.environ.get("TWINSTAR_PUBLISHED", "127.0.0.1:18000")
ENVIRONMENT = {**os.environ, "COMPOSE_PROJECT_NAME": "twinstar-verify", "TWINSTAR_PUBLISHED": ADDRESS}
HEALTHY_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30
USERS_MAX_COUNT = 64

# Run inside the service's container: the requests that the published artefacts were verified with.
READ_GOLDEN = """
import json, pathlib, sys
found = {}
for current in sorted(pathlib.Path('/registry/models').glob('*/current')):
    version = current.read_text().strip()
    folder = current.parent / version
    manifest = json.loads((folder / 'manifest.json').read_text())
    golden = json.loads((folder / 'golden.json').read_text())
    keep = ('domain', 'user_id', 'context', 'candidates')
    found[current.parent.name] = {
        'version': version,
        'domains': manifest['domains'],
        'tasks': [task['name'] for task in manifest['tasks']],
        'requests': [{name: request[name] for name in keep} for request in golden],
    }
json.dump(found, sys.stdout)
"""

# Run inside an image: what must not be there.
LIST_FORBIDDEN = """
import importlib.util, os, shutil, sys
modules = [m for m in sys.argv[1].split(',') if importlib.util.find_spec(m)]
programs = [p for p in ('gcc', 'cc', 'g++', 'make') if shutil.which(p)]
print(*modules, *programs, *(['root'] if os.getuid() == 0 else []))
"""


class Failure(Exception):
    """What was seen is not what must be."""


def main() -> int:
    compose = find_compose()
    try:
        verify(compose)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        subprocess.run([*compose, "logs", "--no-color", "--tail=60"], cwd=ROOT, env=ENVIRONMENT, check=False)
        return 1
    finally:
        subprocess.run(
            [*compose, "down", "--volumes", "--timeout", "10"],
            cwd=ROOT, env=ENVIRONMENT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print("all passed")
    return 0


def verify(compose: list[str]) -> None:
    """Run every check in its order."""
    step("build")
    run([*compose, "build"])
    check_image("twinstar", forbidden="torch,onnx,pandas,polars,pyarrow,sklearn,scipy,training,tests,pip")
    check_image("twinstar-publish", forbidden="torch,onnx,onnxscript,sklearn,scipy,tests")

    step("up")
    started = time.monotonic()
    run([*compose, "up", "--detach"])
    service = output([*compose, "ps", "-q", "service"])
    wait_until(lambda: health(service) == "healthy", "the service is not healthy")
    say(f"healthy {time.monotonic() - started:.1f} s after `up`")
    check_hardening(service)

    step("score")
    golden = json.loads(output(["docker", "exec", service, "python", "-c", READ_GOLDEN]))
    if not golden:
        raise Failure("the registry has no model")
    requests = check_every_domain(golden)

    step("without Redis")
    run([*compose, "stop", "redis"])
    wait_until(lambda: degraded(requests[0]) != [], "the answer does not say that it is degraded")
    say(f"200, degraded {degraded(requests[0])}")
    run([*compose, "start", "redis"])
    wait_until(lambda: degraded(requests[0]) == [], "the answer is still degraded")
    say("Redis is back: 200, not degraded")

    step("publish again, restart")
    run([*compose, "run", "--rm", "-T", "publish"])
    run([*compose, "restart", "service"])
    wait_until(lambda: health(service) == "healthy", "the service is not healthy")
    if degraded(requests[0]):
        raise Failure("degraded after publishing again")

    step("stop")
    started = time.monotonic()
    run(["docker", "stop", "--time", str(STOP_TIMEOUT_S), service])
    seconds = time.monotonic() - started
    code = output(["docker", "inspect", "--format", "{{.State.ExitCode}}", service])
    if code not in ("0", "143") or seconds > STOP_TIMEOUT_S / 2:
        raise Failure(f"stopped with exit code {code} after {seconds:.1f} s")
    say(f"stopped with exit code {code} after {seconds:.1f} s")


def check_image(image: str, *, forbidden: str) -> None:
    """Refuse an image that runs as root, or has what it must not have."""
    found = output(
        ["docker", "run", "--rm", "--entrypoint", "python", image, "-c", LIST_FORBIDDEN, forbidden]
    )
    if found:
        raise Failure(f"image {image} has: {found}")
    user = output(["docker", "inspect", "--format", "{{.Config.User}}", image])
    if not user.split(":")[0].isdigit() or user.startswith("0"):
        raise Failure(f"image {image} runs as {user or 'root'}")
    size_bytes = int(output(["docker", "inspect", "--format", "{{.Size}}", image]))
    base_bytes = int(output(["docker", "inspect", "--format", "{{.Size}}", "python:3.11-slim"]))
    say(f"{image}: user {user}, {(size_bytes - base_bytes) / 1e6:.0f} MB above its base, lacks {forbidden}")


def check_hardening(service: str) -> None:
    """Refuse a container that can write to its own file system or that holds capabilities."""
    writes = subprocess.run(["docker", "exec", service, "touch", "/app/x"], capture_output=True, check=False)
    if writes.returncode == 0:
        raise Failure("the service can write to its own file system")
    status = output(["docker", "exec", service, "cat", "/proc/1/status"])
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if int(facts["CapEff"], 16) or facts["NoNewPrivs"].strip() != "1":
        raise Failure(f"the service has capabilities {facts['CapEff']}, NoNewPrivs {facts['NoNewPrivs']}")
    say("read-only, no capabilities, no new privileges")


def check_every_domain(golden: dict[str, dict]) -> list[dict]:
    """Score real requests of every domain until every model has answered; return one request per domain."""
    versions = {f"{name}-{model['version']}" for name, model in golden.items()}
    model = next(iter(golden.values()))
    answered: dict[str, set[str]] = {}
    requests = []
    for domain in model["domains"]:
        of_domain = [r for r in model["requests"] if r["domain"] == domain][:USERS_MAX_COUNT]
        if not of_domain:
            raise Failure(f"no golden request of domain {domain!r}")
        requests.append(of_domain[0])
        known_count = 0
        for request in of_domain:
            status, headers, body = post_score(request)
            version = headers.get("X-Model-Version", "")
            if status != 200 or version not in versions:
                raise Failure(f"domain {domain}: status {status}, X-Model-Version {version!r}: {body}")
            check_results(request, body, model["tasks"])
            known_count += len(request["candidates"]) - len(body["unknown_items"])
            answered.setdefault(domain, set()).add(version)
        if known_count <= 0:
            raise Failure(f"domain {domain}: every item is unknown")
        say(f"{domain}: {len(of_domain)} requests, 200, answered by {', '.join(sorted(answered[domain]))}")
    silent = versions - set().union(*answered.values())
    if silent:
        raise Failure(f"no request was answered by {', '.join(sorted(silent))}")
    return requests


def check_results(request: dict, body: dict, tasks: list[str]) -> None:
    """Refuse results that are not the candidates in their order with a probability for each task."""
    wanted = [candidate["item_id"] for candidate in request["candidates"]]
    if [result["item_id"] for result in body["results"]] != wanted:
        raise Failure(f"results are not the candidates in their order: {body}")
    if not all(0 <= result[task] <= 1 for result in body["results"] for task in tasks):
        raise Failure(f"a result has no probability for one of {tasks}: {body}")
    if body["degraded"]:
        raise Failure(f"degraded {body['degraded']}")


def degraded(request: dict) -> list[str]:
    """Score one request, which must succeed; return what its answer lacked."""
    status, _, body = post_score(request)
    if status != 200:
        raise Failure(f"status {status}: {body}")
    return body["degraded"]


def post_score(request: dict) -> tuple[int, dict, dict]:
    """Return status, headers and body of one POST /score; the domain goes into its header."""
    body = json.dumps({name: value for name, value in request.items() if name != "domain"}).encode()
    headers = {"Content-Type": "application/json", "X-Domain": request["domain"]}
    call = urllib.request.Request(f"http://{ADDRESS}/score", body, headers)
    try:
        with urllib.request.urlopen(call, timeout=10) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


def health(container: str) -> str:
    """Return what the image's own health check says."""
    return output(["docker", "inspect", "--format", "{{.State.Health.Status}}", container])


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + HEALTHY_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"after {HEALTHY_TIMEOUT_S} s {otherwise}")
        time.sleep(0.5)


def find_compose() -> list[str]:
    """Return the command of Compose v2 if it is there, else that of v1."""
    v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if v2.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    sys.exit("neither `docker compose` nor `docker-compose` is installed")


def run(command: list[str]) -> None:
    """Run a command in silence; what it said comes out only if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise Failure(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-4000:]}")


def output(command: list[str]) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, text=True, check=False, capture_output=True)
    if done.returncode:
        raise Failure(f"{' '.join(command[:6])}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout.strip()


def step(name: str) -> None:
    print(f"== {name}", flush=True)


def say(line: str) -> None:
    print(f"   {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
