"""A TensorPool engine in one process, for demos and tests: `Emulator`.

It answers over real sockets as the engine would, with clusters that take their time, and it keeps its own
account of what was really done. It knows nothing of this package's client, so that it can disagree with it.
"""

from tensorpool_async.emulator.cluster import Cluster, ClusterStatus, Instance
from tensorpool_async.emulator.faults import Fault, FaultKind
from tensorpool_async.emulator.job import Job, JobStatus
from tensorpool_async.emulator.prices import PRICES
from tensorpool_async.emulator.record import Fired, Made, Record
from tensorpool_async.emulator.requests import Request, RequestKind, RequestStatus
from tensorpool_async.emulator.routes import endpoints
from tensorpool_async.emulator.server import Emulator
from tensorpool_async.emulator.volume import Volume, VolumeStatus


__all__ = [
    "PRICES",
    "Cluster",
    "ClusterStatus",
    "Emulator",
    "Fault",
    "FaultKind",
    "Fired",
    "Instance",
    "Job",
    "JobStatus",
    "Made",
    "Record",
    "Request",
    "RequestKind",
    "RequestStatus",
    "Volume",
    "VolumeStatus",
    "endpoints",
]
