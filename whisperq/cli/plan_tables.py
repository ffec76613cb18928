"""What --dry-run prints."""

from rich.table import Table

from whisperq.cli.planning import NOT_TRIED, Plan, Setting
from whisperq.results.cells import table


def plan_tables(plan: Plan) -> list[Table | str]:
    settings = table(f"whisperq {plan.command} would run with", "setting", "value", "from")
    for name, setting in plan.settings.items():
        settings.add_row(name.replace("_", "-"), _value(setting), setting.origin)
    reads = table("It would read", "", "what", "state")
    for one in plan.reads:
        reads.add_row(one.role, one.what, one.state)
    writes = table("It would write", "where", "state")
    for write in plan.writes or ():
        writes.add_row(write.what, write.state)
    if not plan.writes:
        writes.add_row("standard output", "-")
    return [settings, reads, writes, NOT_TRIED]


def _value(setting: Setting) -> str:
    value = setting.value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
