"""The tests that need a GPU, and the names of those that fail."""

import re
from pathlib import Path
from typing import Any

import pytest
from gpu_task import Failed, Task

ROOT = Path(__file__).parents[2]
NEEDS_GPU = re.compile(r"skipif\(\s*not torch\.cuda\.is_available\(\)")


class Recorder:
    """A plugin of pytest's that saves each test's outcome as it comes."""

    def __init__(self, task: Task, files: list[str]) -> None:
        self.task = task
        self.found: dict[str, Any] = {"files": files, "passed": 0, "skipped": {}, "failed": {}}
        task.results |= self.found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed(report)
        elif report.skipped and isinstance(report.longrepr, tuple):  # not one that was expected to fail
            self.found["skipped"][report.nodeid] = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.when == "call":
            self.found["passed"] += 1
        self._save()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed(report)
            self._save()

    def _failed(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")] or [report.longreprtext]
        self.found["failed"][report.nodeid] = lines[-1].removeprefix("E ").strip()

    def _save(self) -> None:
        self.task.results |= self.found
        self.task.save()


def gpu_tests() -> list[str]:
    """The files of tests that skip where there is no GPU."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if NEEDS_GPU.search(file.read_text(encoding="utf-8"))]


def tests(task: Task) -> None:
    files = gpu_tests()
    recorder = Recorder(task, files)
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "--tb=short"]
    pytest.main([*options, *(str(ROOT / file) for file in files)], plugins=[recorder])
    if failed := recorder.found["failed"]:
        raise Failed(f"{len(failed)} failed: {', '.join(failed)}")
    if not recorder.found["passed"] and not recorder.found["skipped"]:
        raise Failed("no test ran")
