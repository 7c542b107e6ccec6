"""What every process that runs Flower needs in its environment: nothing is reported, looked up or installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment, as one of Flower's processes needs it.

    Args:
        home: where Flower keeps what it unpacks.
        more: variables of the one process.
    """
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **FLOWER_ENVIRONMENT,
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        **more,
    }
