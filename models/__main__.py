"""The commands of the offline half, a table of contents; `attune` shows them beside its own.

Each group is a file in `commands/`. Every import of torch is inside a command, so that `--help` costs nothing.
"""

from __future__ import annotations

from attune.command_line import plain_app
from attune.models.commands.bundle import bundle_app
from attune.models.commands.data import data_app
from attune.models.commands.imports import import_app
from attune.models.commands.measure import measure_app
from attune.models.commands.portfolio import portfolio_app
from attune.models.commands.train import train_app
from attune.models.commands.users import users_app

app = plain_app("Look at data, train on it, measure, and pack what the service serves.")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(import_app, name="import")
app.add_typer(measure_app, name="measure")
app.add_typer(portfolio_app, name="portfolio")
app.add_typer(bundle_app, name="bundle")
app.add_typer(users_app, name="users")

if __name__ == "__main__":
    app(prog_name="python -m attune.models")
