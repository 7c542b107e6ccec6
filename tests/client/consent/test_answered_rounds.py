"""Which rounds of an approved campaign were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.consent import answered_rounds
from common.errors import UnapprovedError
from common.messages import TrainRequest


def request(request_id: str, *, server_round: int = 1) -> TrainRequest:
    return TrainRequest(
        campaign="c",
        plan_hash="ab" * 32,
        request_id=request_id,
        group="g",
        server_round=server_round,
        encoding="float32",
        weights={"n": np.zeros(1, np.float32)},
        layouts={},
    )


def test_a_round_is_one_requests(tmp_path: Path) -> None:
    answered_rounds.check(tmp_path, request("a"))
    answered_rounds.claim(tmp_path, request("a"))
    answered_rounds.check(tmp_path, request("a"))
    answered_rounds.check(tmp_path, request("b", server_round=2))
    with pytest.raises(UnapprovedError, match="by another request"):
        answered_rounds.check(tmp_path, request("b"))
    answered_rounds.forget(tmp_path, "ab" * 32)
    answered_rounds.check(tmp_path, request("b"))


def test_attempts_at_a_secure_sum_are_one_runs(tmp_path: Path) -> None:
    answered_rounds.check(tmp_path, request("a"), asker="run")
    answered_rounds.claim(tmp_path, request("a"), asker="run")
    answered_rounds.check(tmp_path, request("b"), asker="run")
    answered_rounds.claim(tmp_path, request("b"), asker="run")
    with pytest.raises(UnapprovedError, match="by another request"):
        answered_rounds.check(tmp_path, request("b"), asker="another run")
    with pytest.raises(UnapprovedError, match="by another request"):
        answered_rounds.check(tmp_path, request("a"))
