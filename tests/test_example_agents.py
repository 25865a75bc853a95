"""The example of two agents, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "two_agents.py"


@pytest.mark.slow
def test_two_agents_share_their_memory_through_an_outage(server_kind: str):
    flag = "valkey" if server_kind == "valkey" else "redis"
    command = [sys.executable, "-W", "error", str(EXAMPLE), "--server", flag]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert "answered 40 tasks" in ended.stdout
    assert ended.stdout.rstrip().endswith("every task was heard of, answered and noted once, in order")
