"""What a run came to: its bundle and the gate's verdicts, kept in the object store under the run's id.

The pipeline's last task writes it; KFP's API tells of a run's artifacts nothing, so whoever promotes reads it from there.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from phasor.artifacts import MANIFEST, Record, first_problem, read_record, sha256_file
from phasor.config.base import Role
from phasor.errors import ArtifactError
from phasor.evaluation.scores import GateVerdict
from phasor.reporting import RunReport
from phasor.settings import store_settings
from phasor.storage.store import Place, Store

_MINIO = "minio://"
log = logging.getLogger(__name__)


class Result(Record):
    """The end of a run that succeeded.

    Attributes:
        name: of the recipe.
        bundle: where the bundle lies, s3://BUCKET/PREFIX.
        sha256: of its manifest, which pins every other file.
        code_rev: of the training code.
        gates: role to verdict.
        missed: required checks that do not hold, in words; they stop no promotion.
    """

    schema_version: int = 1
    run: str
    name: str
    bundle: str
    sha256: str
    code_rev: str
    gates: dict[Role, GateVerdict]
    missed: list[str]

    @property
    def passed(self) -> bool:
        """Whether the gate of every role is green."""
        return all(verdict.passed for verdict in self.gates.values())


def make_result(run: str, location: str, bundle: Path, report: Path) -> Result:
    """The result of a run from its bundle and report.

    Args:
        run: KFP's id.
        location: of the bundle in the store, as KFP names it: minio:// is its word for S3 where no pipeline root is set.
        bundle, report: the folders, here.

    Raises:
        ArtifactError: the report is not of this version.
    """
    told = read_record(RunReport, report / "report.json")
    checks = ((role, check) for role, scores in told.roles.items() for check in scores.checks)
    return Result(
        run=run,
        name=told.name,
        bundle=f"s3://{location.removeprefix(_MINIO)}" if location.startswith(_MINIO) else location,
        sha256=sha256_file(bundle / MANIFEST),
        code_rev=told.code_rev,
        gates={role: scores.gate for role, scores in told.roles.items()},
        missed=[f"{role}: {check.text} ({check.measured})" for role, check in checks if check.kind == "required" and not check.passed],
    )


def publish_result(result: Result) -> None:
    """Write a result to the place for results; where none is set, nobody asks for it. Raises StorageError if the store refuses."""
    settings = store_settings()
    if not settings.results:
        log.info("publish.skipped: PHASOR_RESULTS names no place")
        return
    Store(settings).write(Place.parse(settings.results), _name(result.run), (result.model_dump_json(indent=2) + "\n").encode())


def read_result(results: str, run: str) -> Result:
    """The result of a run.

    Args:
        results: s3://BUCKET/PREFIX.
        run: KFP's id.

    Raises:
        ArtifactError: there is none, or it is of another version.
        StorageError: the store does not answer.
    """
    place = Place.parse(results)
    where = f"{results}/{_name(run)}"
    try:
        return Result.model_validate_json(Store(store_settings()).read(place, _name(run)))
    except FileNotFoundError:
        raise ArtifactError(f"{where} is not there: the run wrote no result. Check `results` in the profile it ran with.") from None
    except ValidationError as error:
        raise ArtifactError(f"{where} is no result of this version ({first_problem(error)}). Run the pipeline of this version.") from None


def _name(run: str) -> str:
    return f"{run}.json"
