"""What presigned links lead to. They are no part of the engine's API: an S3 server would answer them."""

from tensorpool_async.emulator.answers import Answer
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine


def download(engine: Engine, call: Call) -> Answer:
    if call.has_key:
        # S3 does so too, and a key that is sent there has left the house.
        return Answer(400, {"message": "Only one way of authentication is allowed: this link has its own"})
    return Answer(200, file=engine.jobs.linked(call.argument))
