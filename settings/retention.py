"""The section `retention`."""

from typing import Annotated

from pydantic import Field

from settings.problem import Problem
from settings.section import Section
from settings.value_types import matching

_CRON_FIELD = r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,2})?"
_CRON_LIST = rf"{_CRON_FIELD}(,{_CRON_FIELD})*"


class Retention(Section):
    """Times after which things go for ever, with their files: ``docs/retention.md``. Without one of the three ``…Days`` nothing goes."""

    deleted_days: int | None = Field(default=None, ge=1, le=3650, examples=[30])
    """Days after which a deleted run, logged model or experiment goes. Until then it can be restored. Runs and models of which the registry
    has a version stay."""
    delete_traces_days: int | None = Field(default=None, ge=1, le=3650, examples=[365])
    """Days after which a trace goes, deleted or not."""
    archive_traces_days: int | None = Field(default=None, ge=1, le=3650, examples=[90])
    """Days after which the spans of a trace move from the database into the bucket, where MLflow finds them. Chart 1.8.1 cannot."""
    schedule: Annotated[
        str,
        matching(rf"{_CRON_LIST}( {_CRON_LIST}){{4}}", "write five fields of cron, such as 17 3 * * *"),
    ] = "17 3 * * *"
    """Time of a pass, five fields of cron, in UTC. Default: every night at 3:17."""
    dry_run: bool = False
    """True to count what would go, in the log of the pass, and to take nothing."""

    @property
    def is_on(self) -> bool:
        """True if anything goes."""
        return bool(self.deleted_days or self.delete_traces_days or self.archive_traces_days)

    def problems(self) -> list[Problem]:
        """Reject what would never happen."""
        found: list[Problem] = []
        idle = {"schedule", "dry_run"} & self.model_fields_set
        if idle and not self.is_on:
            key = "dryRun" if "dry_run" in idle else "schedule"
            found.append(
                Problem(key, "is set, and nothing goes; write deletedDays too, or drop it", based_on=["deletedDays"])
            )
        if self.archive_traces_days and self.delete_traces_days and self.archive_traces_days >= self.delete_traces_days:
            found.append(
                Problem(
                    "archiveTracesDays",
                    f"is {self.archive_traces_days}, and traces go after deleteTracesDays {self.delete_traces_days}; write fewer days, or drop it",
                    based_on=["deleteTracesDays"],
                )
            )
        return found
