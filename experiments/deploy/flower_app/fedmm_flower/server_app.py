"""Hands the run to the fedmm_secure that is installed beside the SuperLink."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from experiments.deploy.server import serve

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    serve(grid, context.run_config)
