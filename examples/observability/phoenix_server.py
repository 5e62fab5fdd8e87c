"""Start Arize Phoenix for this machine alone: on loopback, without its gRPC port, and without a word to anybody.

    .venv-phoenix/bin/python examples/observability/phoenix_server.py [--port 6006] [--dir DIRECTORY]

`make phoenix` makes that environment and runs this. Phoenix (Elastic License 2.0) is a tool beside us, no dependency.
"""

import argparse
import importlib
import os
import sys
import tempfile

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--port", type=int, default=6006)
parser.add_argument("--dir", help="where traces are kept; a temporary directory without it")
options = parser.parse_args()

os.environ.update(
    PHOENIX_HOST="127.0.0.1",
    PHOENIX_PORT=str(options.port),
    PHOENIX_WORKING_DIR=options.dir or tempfile.mkdtemp(prefix="phoenix-"),
    PHOENIX_TELEMETRY_ENABLED="false",
    PHOENIX_ALLOW_EXTERNAL_RESOURCES="false",
    PHOENIX_DISABLE_AGENT_ASSISTANT="true",
    PHOENIX_ENABLE_MCP_SERVER="false",
)

app = importlib.import_module("phoenix.server.app")  # only now: it reads the environment when it is imported


class NoGrpc(app.GrpcServer):
    """Its gRPC port would listen on every interface, whatever PHOENIX_HOST says. OTLP over HTTP is all we need."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "disabled": True})


app.GrpcServer = NoGrpc

sys.argv = ["phoenix", "serve"]
importlib.import_module("phoenix.server.main").main()
