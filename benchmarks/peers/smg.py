"""smg (Rust), the successor of sglang-router."""

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers.program import Program, distribution_version
from benchmarks.peers.sglang_router import LACKS, router_command

ENVIRONMENT = Environment("smg", (REQUIREMENTS / "smg.txt",))

SYSTEM = Program(
    name="smg",
    environment=ENVIRONMENT,
    command=router_command(ENVIRONMENT, "smg"),
    about=distribution_version(ENVIRONMENT, "smg"),
    health="/readiness",
    lacks=LACKS,
)
