"""The routes of polling and of health."""

from tensorpool_async.emulator.answers import Answer
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine


def info(engine: Engine, call: Call) -> Answer:
    request = engine.requests.get(call.argument)
    return Answer(200, request.as_json(), None if request.done else engine.retry_after.tell())


def health(_engine: Engine, call: Call) -> Answer:
    call.fields()
    return Answer(200, {"message": None})


def healthz(_engine: Engine, _call: Call) -> Answer:
    return Answer(200, {"status": "ok"})
