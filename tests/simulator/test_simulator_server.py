from __future__ import annotations

import argparse
import io
import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from simulator_help import CAT, HEADERS, server

from rsbatch.commands import simulate
from rsbatch.errors import UsageError
from rsbatch.simulator.wire import AUDIT, QUERY, SUBMIT

pytestmark = pytest.mark.slow

# The service's documentation, word for word but for the host.
SUBMIT_EXAMPLE = """curl https://api.routescope.ai/v1/aiart/openai/image/submit \\
-H "Authorization: Bearer $ROUTESCOPE_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{"model": "gpt-image-2", "prompt": "Generate a modern API documentation cover"}'
"""
FIRST_EXAMPLE = (
    '{"model": "gpt-image-2", "prompt": "一只橘猫坐在霓虹灯下,电影感,细节丰富", "size": "1024x1024", '
    '"quality": "high", "n": 1, "output_format": "png"}'
)
QUERY_EXAMPLE = """curl https://api.routescope.ai/v1/aiart/openai/image/query \\
-H "Authorization: Bearer $ROUTESCOPE_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{"job_id": "your-job-id"}'
"""


def curl(address: str, example: str) -> Any:
    command = example.replace("https://api.routescope.ai", address).replace("curl ", "curl -sS ", 1)
    env = {"ROUTESCOPE_API_KEY": "sk-example", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


def test_the_documented_examples_with_curl() -> None:
    with server("--service-time", "0") as (address, _):
        submitted = curl(address, SUBMIT_EXAMPLE)
        assert [*submitted] == ["request_id", "job_id"]
        cover = SUBMIT_EXAMPLE.partition("-d ")[0]
        submitted = curl(address, f"{cover}-d '{FIRST_EXAMPLE}'")
        assert submitted["job_id"].startswith("task_")
        done = curl(address, QUERY_EXAMPLE.replace("your-job-id", submitted["job_id"]))
        assert done["status"] == "DONE"
        url = done["data"][0]["url"]
        image = subprocess.run(["curl", "-sSf", url], capture_output=True, timeout=30, check=True).stdout
        with Image.open(io.BytesIO(image)) as opened:
            assert (opened.format, opened.size) == ("PNG", (1024, 1024))
        assert curl(address, QUERY_EXAMPLE)["code"] == "job_not_found"
        assert curl(address, QUERY_EXAMPLE.replace('"job_id": "your-job-id"', "")) == {
            "code": "invalid_request",
            "message": "job_id is required",
            "data": None,
        }


def test_connections_are_really_cut_and_nothing_is_logged() -> None:
    faults = "reset-after,image-cut-length"
    with server("--faults", faults) as (address, process), httpx.Client(base_url=address, headers=HEADERS) as client:
        with pytest.raises(httpx.ReadError):
            client.post(SUBMIT, json=CAT)
        audit = client.get(AUDIT).json()
        assert audit["totals"]["lost"] == 1
        process.terminate()
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0
        assert errors == ""


def test_stopping_does_not_wait_for_answers_that_never_come() -> None:
    with server("--faults", "hang-after") as (address, process):
        body, headers = json.dumps(CAT), [f"-H{name}: {value}" for name, value in HEADERS.items()]
        command = ["curl", "-sS", address + SUBMIT, "-d", body, *headers]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as asking:
            while not httpx.get(address + AUDIT).json()["jobs"]:
                pass
            process.terminate()
            assert process.communicate(timeout=10)[1] == ""
            assert process.returncode == 0
            assert asking.wait(timeout=10) != 0


def test_a_file_that_is_cut() -> None:
    options = ("--faults", "image-cut-length", "--service-time", "0")
    with server(*options) as (address, _), httpx.Client(base_url=address, headers=HEADERS) as client:
        job_id = client.post(SUBMIT, json=CAT | {"size": "1024x1024"}).json()["job_id"]
        url = client.post(QUERY, json={"job_id": job_id}).json()["data"][0]["url"]
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(url)


def test_jobs_survive_kill_9(tmp_path: Path) -> None:
    state = str(tmp_path / "simulator.jsonl")
    with server("--state", state, "--service-time", "0") as (address, process):
        job_id = httpx.post(address + SUBMIT, json=CAT, headers=HEADERS).json()["job_id"]
        process.kill()
        process.communicate()
    with server("--state", state) as (address, process):
        answer = httpx.post(address + QUERY, json={"job_id": job_id}, headers=HEADERS).json()
        assert answer["status"] == "DONE"
        assert httpx.get(answer["data"][0]["url"]).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[1] == ""
        assert process.returncode == 0


# -- options -------------------------------------------------------------------------------------------------------


def run(*options: str) -> int:
    parser = argparse.ArgumentParser(prog="rsbatch simulate")
    simulate.add_arguments(parser)
    return simulate.run(parser.parse_args(options))


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="cannot listen on"):
        run("--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slots", "0"), "at least 1 slot"),
        (("--slots", "many"), "--slots must be a whole number"),
        (("--speed", "fast"), "--speed must be a number"),
        (("--speed", "0"), "above 0"),
        (("--service-time", "soon"), "--service-time must be a duration"),
        (("--url-ttl", "0"), "above 0"),
        (("--latency", "far"), "--latency must be a duration"),
        (("--download-time", "long"), "--download-time must be a duration"),
        (("--faults", "reste"), "did you mean `reset`"),
        (("--port", "70000"), "--port must be between"),
        (("--balance", "-1"), "0 or more"),
        (("--per-minute", "0"), "at least 1 submission a minute"),
        (("--per-minute", "few"), "--per-minute must be a whole number"),
        (("--host", "203.0.113.1"), "cannot listen on"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*options)


def test_help_lists_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    shown = capsys.readouterr().out
    assert "image-redirect" in shown
    assert "--url-ttl" in shown
