"""The schedules: what they start is what the command line understands, and does, by date and with retention."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from tamis.jobs.command import app

FOLDER = Path(__file__).parents[2] / "jobs" / "schedules"
BIN = Path(sys.executable).parent


def crontab() -> list[tuple[str, str]]:
    """Return the times and the commands of the crontab, these as the shell receives them."""
    lines = [line for line in (FOLDER / "tamis.cron").read_text().splitlines() if line and line[0] != "#"]
    entries = [line.split(maxsplit=5) for line in lines if not re.match(r"\w+=", line)]
    for *_, command in entries:
        assert not re.search(r"(?<!\\)%", command), "a crontab ends a command at a plain %"
    return [(" ".join(times), command.replace(r"\%", "%")) for *times, command in entries]


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    """Return the sections of a unit, in which a key may occur several times."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("["):
            keys = sections.setdefault(line.strip("[]"), [])
        elif line and line[0] != "#":
            key, _, value = line.partition("=")
            keys.append((key, value))
    return sections


def service_commands() -> list[str]:
    """Return the commands of the service, as systemd starts them."""
    values = [value for key, value in unit("tamis.service")["Service"] if key.startswith("Exec")]
    return [value.replace("%%", "%").replace("$$", "$") for value in values]


def cron_job() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "cronjob.yaml").read_text())


def pod() -> dict[str, Any]:
    return cron_job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def scripts() -> dict[str, str]:
    """Return what each schedule does in one night, as a shell script."""
    (container,) = pod()["containers"]
    assert container["command"] == ["/bin/sh", "-c"]
    return {
        "cron": "\n".join(command for _, command in crontab()),
        "systemd": "\n".join(service_commands()),
        "kubernetes": container["args"][0],
    }


def dag_commands() -> list[list[str]]:
    """Return the arguments that the DAG gives to `tamis`, variables as their names."""
    tree = ast.parse((FOLDER / "tamis_dag.py").read_text())
    lists = [node.elts for node in ast.walk(tree) if isinstance(node, ast.List)]
    known = {
        node.targets[0].id: node.value.elts
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List)
    }
    commands = []
    for elements in lists:
        if isinstance(elements[0], ast.Name) and elements[0].id == "TAMIS":
            flat = [
                inner
                for element in elements[1:]
                for inner in (known[element.value.id] if isinstance(element, ast.Starred) else [element])  # type: ignore[attr-defined]
            ]
            commands.append([e.value if isinstance(e, ast.Constant) else ast.unparse(e) for e in flat])
    return commands


def test_every_command_is_one_of_tamis() -> None:
    found = [
        shlex.split(text)
        for script in scripts().values()
        for text in re.findall(r"tamis ((?:run|store) recipe[^\n|&>']*)", script)
    ]
    assert len(found) == 6
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, *arguments in [*found, *dag_commands()]:
        read = commands[name].make_context(name, arguments)
        if name == "store":
            assert read.params["prune"] and read.params["yes"] and read.params["keep"]
            assert read.params["older_than"] == "30d"
        else:
            assert read.params["output"] and read.params["log_format"] == "json"
    assert [command[0] for command in dag_commands()] == ["run", "store"]


def test_schedules_do_the_same() -> None:
    done = {
        name: {
            text.strip().removeprefix("/opt/tamis/bin/").replace("date -u", "date")
            for text in re.findall(r"(?:/opt/tamis/bin/)?tamis (?:run|store) recipe[^\n|&>']*|ls -d [^\n&']*", script)
        }
        for name, script in scripts().items()
    }
    assert len(done["cron"]) == 3
    assert done["cron"] == done["systemd"] == done["kubernetes"]


def shell(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with the paths of the schedules replaced."""
    script = script.replace("/srv/tamis", str(home)).replace("/opt/tamis/bin", str(BIN))
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(["/bin/sh", "-c", script], cwd=home, env=environment, capture_output=True, text=True)


def test_a_night(tmp_path: Path) -> None:
    """Run what cron starts, where 31 older runs are: the newest thirty are left, and the scores they used."""
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"text": f"document {n}"}) for n in range(4)))
    recipe = {"corpus": {"format": "jsonl", "paths": ["corpus.jsonl"]}, "store": ".tamis"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    today = datetime.now(UTC)
    older = [f"{today - timedelta(days=days):%Y-%m-%d}" for days in range(2, 33)]
    others = {"2020-mine", "not-a-run"}
    for name in [*older, *others]:
        (tmp_path / "runs" / name / "data").mkdir(parents=True)
    done = shell(scripts()["cron"], tmp_path)
    # a word on stdout or stderr would be a mail
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    left = {path.name for path in (tmp_path / "runs").iterdir()}
    (new,) = left - {*older, *others}
    assert abs(datetime.fromisoformat(new).replace(tzinfo=UTC) - today) < timedelta(days=2)
    assert left == {new, *older[:29], *others}
    assert list(tmp_path.glob(".tamis/document-*/*.parquet"))


def test_a_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("corpus: {format: jsonl}")
    nightly, _ = (command for _, command in crontab())
    done = shell(nightly, tmp_path)
    assert done.stdout == f"tamis run ended with exit code 2; see {tmp_path}/tamis.log\n"
    assert "recipe.yaml:1: corpus" in (tmp_path / "tamis.log").read_text()
    # the pod ends with the code of the run, whatever the retention after it does
    assert shell(f"PATH=/usr/bin:/bin\n{scripts()['kubernetes']}", tmp_path).returncode == 127


def test_times() -> None:
    ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    times = [*(times for times, _ in crontab()), cron_job()["spec"]["schedule"]]
    times += re.findall(r'schedule="(.*)"', (FOLDER / "tamis_dag.py").read_text())
    assert len(times) == 4
    for fields in map(str.split, times):
        assert len(fields) == 5
        for field, (low, high) in zip(fields, ranges, strict=True):
            assert field == "*" or low <= int(field) <= high


def test_units() -> None:
    service = unit("tamis.service")["Service"]
    assert ("Type", "oneshot") in service
    # what trying again cannot mend is not tried again
    assert dict(service)["RestartPreventExitStatus"].split() == ["2", "3", "4", "130"]
    timer = configparser.ConfigParser()
    timer.read(FOLDER / "tamis.timer")
    assert timer["Timer"]["OnCalendar"] and timer["Install"]["WantedBy"] == "timers.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_its_units() -> None:
    paths = [str(FOLDER / name) for name in ("tamis.service", "tamis.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
    # it tells of keys that it does not know, and ends well all the same; the command need not be installed here
    told = [line for line in done.stderr.splitlines() if "/opt/tamis" not in line]
    assert (done.returncode, told) == (0, [])


def test_the_cron_job() -> None:
    job = cron_job()
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (container,) = pod()["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"]: container["workingDir"] for volume in pod()["volumes"]}
    # a failure policy is only allowed so
    assert pod()["restartPolicy"] == "Never"
    rules = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    (codes,) = (rule["onExitCodes"] for rule in rules if "onExitCodes" in rule)
    assert (codes["containerName"], codes["values"]) == (container["name"], [2, 3, 4])


def test_the_page_names_every_file() -> None:
    page = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"\]\(([^)]+)\)", page)) == {path.name for path in FOLDER.iterdir() if path.is_file()} - {
        "README.md"
    }
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == {0, 1, 2, 3, 4, 130}
