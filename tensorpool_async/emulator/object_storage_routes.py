"""The routes under /object-storage."""

from tensorpool_async.emulator.answers import Answer
from tensorpool_async.emulator.call import Call
from tensorpool_async.emulator.engine import Engine
from tensorpool_async.emulator.object_storage import REMOTE


def enable(engine: Engine, _call: Call) -> Answer:
    new = engine.object_storage.enable()
    message = "Object storage is enabled" if new else "Object storage was enabled already"
    return Answer(200, {**engine.object_storage.as_json(), "message": message})


def disable(engine: Engine, _call: Call) -> Answer:
    engine.object_storage.disable()
    return Answer(200, {"message": "Object storage is disabled"})


def credentials(engine: Engine, _call: Call) -> Answer:
    return Answer(200, engine.object_storage.as_json())


def rotate(engine: Engine, _call: Call) -> Answer:
    engine.object_storage.rotate()
    return Answer(200, engine.object_storage.as_json())


def rclone(engine: Engine, _call: Call) -> Answer:
    keys, storage = engine.object_storage.enabled(), engine.object_storage
    text = (
        f"[{REMOTE}]\n"
        "type = s3\n"
        "provider = Other\n"
        f"access_key_id = {keys.access_key_id}\n"
        f"secret_access_key = {keys.secret_access_key}\n"
        f"endpoint = {storage.endpoint}\n"
        f"region = {storage.region}\n"
    )
    message = "Use rclone with --ignore-checksum"
    return Answer(200, {"remote_name": REMOTE, "rclone_config": text, "message": message})


def aws(engine: Engine, _call: Call) -> Answer:
    keys, storage = engine.object_storage.enabled(), engine.object_storage
    secrets = (
        f"[{REMOTE}]\n"
        f"aws_access_key_id = {keys.access_key_id}\n"
        f"aws_secret_access_key = {keys.secret_access_key}\n"
    )
    config = f"[profile {REMOTE}]\nregion = {storage.region}\nendpoint_url = {storage.endpoint}\n"
    return Answer(
        200,
        {
            "profile_name": REMOTE,
            "credentials_file": secrets,
            "config_file": config,
            "endpoint": storage.endpoint,
            "message": None,
        },
    )


def buckets(engine: Engine, _call: Call) -> Answer:
    engine.object_storage.enabled()
    return Answer(200, {"buckets": sorted(engine.object_storage.buckets), "message": None})


def create_bucket(engine: Engine, call: Call) -> Answer:
    engine.object_storage.create_bucket(call.argument)
    return Answer(201, {"message": f"Bucket {call.argument} was created"})


def delete_bucket(engine: Engine, call: Call) -> Answer:
    engine.object_storage.delete_bucket(call.argument)
    return Answer(204)
