"""Redis's errors in the service's own words."""

from __future__ import annotations

import pytest
import redis

from common.connection import translated_errors
from common.errors import RedisUnavailableError


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("refused"),
        redis.TimeoutError("no answer"),
        redis.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.ReadOnlyError("You can't write against a read only replica."),
        redis.OutOfMemoryError("command not allowed"),
        redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError("BUSY Redis is busy running a script."),
        redis.ResponseError("Command # 1 (EVALSHA abc 0) of pipeline caused error: BUSY Redis is"),
        redis.ResponseError("Error running script (call to f_1): @user_script:3: -OOM command not"),
        redis.ResponseError("Error running script (call to f_1): @user_script: 3: -READONLY You"),
    ],
)
def test_what_passes_by_itself_is_redis_unavailable(error: redis.RedisError) -> None:
    with pytest.raises(RedisUnavailableError) as caught, translated_errors():
        raise error
    assert caught.value.retry_after_s is not None


@pytest.mark.parametrize(
    "error",
    [
        redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.ResponseError("BUSYGROUP Consumer Group name already exists"),
        redis.DataError("Invalid input of type: 'NoneType'"),
    ],
)
def test_a_bug_of_ours_is_not_hidden(error: redis.RedisError) -> None:
    with pytest.raises(type(error)), translated_errors():
        raise error
