"""What a profile file holds beside what a simulation takes from it: what was measured, on what, and how well it fits.

Apart from ``kvsim.profile.fields``, as only who reads or writes profile files needs it. It must not know how a profile
is measured or stored.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kvsim.presets.fields import Count, Fields, NicFields, Text
from kvsim.profile.fields import Host, Name, Nanoseconds, NanosecondsOrNone, Tokens, WorkerProfile


class MeasuredRow(Fields):
    """One measured step."""

    chunks: list[tuple[Tokens, Count]] = Field(default=[], description="Chunks of prompts: [start token, tokens].")
    decode_requests: Tokens = Field(default=0, description="Requests that decode in the step.")
    context_tokens: Tokens = Field(default=0, description="Their tokens of context, all together.")
    ns: Nanoseconds = Field(description="Nanoseconds.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.chunks and not self.decode_requests:
            raise ValueError("found neither chunks nor decode_requests, expected a step that computes something")
        return self


class Residual(Fields):
    """How far the tables are off what was measured."""

    points: Count = Field(description="Measured points.")
    mean: NanosecondsOrNone = Field(description="Mean absolute error, as a share of what was measured.")
    largest: NanosecondsOrNone = Field(description="Largest absolute error, as a share of what was measured.")


class TableFile(Fields):
    """A table that is too long for the profile: a Parquet file beside it."""

    file: Text = Field(description="Its name; it lies in the folder of the profile.")
    rows: Count = Field(description="Rows.")
    columns: dict[Text, Text] = Field(description="What each column holds, with its unit.")


def _called_by_key(transports: dict[str, NicFields]) -> dict[str, NicFields]:
    """Links without a name of their own are called as in the file."""
    return {
        name: link if "name" in link.model_fields_set else link.model_copy(update={"name": name})
        for name, link in transports.items()
    }


class ProfileFile(WorkerProfile):
    """A profile file."""

    kvsim_profile: Literal[1] = Field(description="Version of this format.")
    machine: Text = Field(description="What it was measured on.")
    date: Text = Field(description="When it was measured (ISO 8601, in quotes).")
    versions: dict[Text, Text] = Field(default={}, description="Versions of the software that was measured.")
    transports: Annotated[dict[Name, NicFields], AfterValidator(_called_by_key)] = Field(
        default={}, description="Measured links by name: what nic may name."
    )
    tables: dict[Name, TableFile] = Field(default={}, description="Measured tables in files of their own, by name.")
    notes: list[Text] = Field(default=[], description="What a reader must know of the fit.")
    residuals: dict[Text, Residual] = Field(default={}, description="How well the tables fit.")
    measured: list[MeasuredRow] = Field(default=[], description="What the tables were fitted to.")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        sections = (self.steps, self.layers, self.transports, self.slowdown, self.tables, self.all_reduce)
        if not any(sections) and self.host == Host():
            raise ValueError("found nothing measured, expected steps, layers, host, transports, slowdown or tables")
        return self
