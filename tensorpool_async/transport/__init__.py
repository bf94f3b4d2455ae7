"""The only room that touches the network.

- `session`: the aiohttp sessions of a client, and what each request is sent with.
- `attempts`: one HTTP attempt, the retry loop, and `Transport`, which the other rooms use.
- `bodies`: reads the body of an answer within bounds of size and time.
- `downloads`: presigned addresses of an object store.
- `websocket`: the two WebSockets of jobs.
- `failures`: what a failed connection means, and whether its request had been sent.
"""
