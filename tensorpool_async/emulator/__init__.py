"""A TensorPool engine in one process, for demos and tests: `Emulator`.

It answers over real sockets as the engine would. Clusters take their time, and a record shows what was really done.
The emulator knows nothing of this package's client, so the two can disagree.
"""

from tensorpool_async.emulator.clusters import Cluster, ClusterStatus, Instance
from tensorpool_async.emulator.faults import Fault, FaultKind
from tensorpool_async.emulator.jobs import Job, JobStatus
from tensorpool_async.emulator.record import FiredFault, Made, Record
from tensorpool_async.emulator.requests import Request, RequestKind, RequestStatus
from tensorpool_async.emulator.routes import endpoints
from tensorpool_async.emulator.server import Emulator
from tensorpool_async.emulator.volumes import Volume, VolumeStatus
from tensorpool_async.emulator.world import PRICES


__all__ = [
    "PRICES",
    "Cluster",
    "ClusterStatus",
    "Emulator",
    "Fault",
    "FaultKind",
    "FiredFault",
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
