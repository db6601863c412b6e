"""`validated_data`: the verdict over the dataset. When it fails, nothing after it runs."""

import dagster as dg

from jukebox_orch.assets.metadata import records, verdict
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.contract.project import Dataset, Finding
from jukebox_orch.ml.artifacts import RuleFinding, ValidationReport

NOUN = "validated_data"


def validated_data_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset, one blocking check per rule of the project, and the checks on invalid rows."""
    project = graph.project

    @graph.asset(
        NOUN,
        kinds={"python", "json"},
        artifact_type="Artifact",
        description="What validation found in the dataset: problems with counts and example rows.",
        upstream=["dataset"],
        checks=[
            *(Check(rule, text) for rule, text in project.rules.items()),
            Check("invalid_share", "Few enough rows had to be quarantined."),
            Check("invalid_rows", "No row had to be quarantined.", blocking=False),
        ],
    )
    def validated_data(context: dg.AssetExecutionContext, dataset: Dataset):
        from jukebox_orch.ml.formats import format_of

        validation = project.validate(dataset)
        report = ValidationReport(
            dataset_digest=format_of(dataset).digest(dataset),
            rows=validation.rows,
            invalid_rows=validation.invalid_rows,
            max_invalid_share=graph.settings(NOUN, context).gates.max_invalid_share,
            findings=[_stored(finding) for finding in validation.findings],
        )
        for finding in report.findings:
            log = context.log.error if finding.fatal else context.log.warning
            log(f"{finding.rule}: {finding.message}")
        return dg.MaterializeResult(
            value=report,
            data_version=dg.DataVersion(format_of(report).digest(report)),
            metadata={
                "rows checked": report.rows,
                "invalid rows": report.invalid_rows,
                "findings": records(
                    [
                        {"rule": f.rule, "rows": f.count, "stops": f.fatal, "what": f.message}
                        for f in report.findings
                    ]
                ),
            },
            check_results=validation_checks(graph, report),
        )

    return validated_data


def validation_checks(graph: Graph, report: ValidationReport) -> list[dg.AssetCheckResult]:
    """The verdict of every check on what validation found."""
    return [
        *(_rule(rule, report) for rule in graph.project.rules),
        verdict(
            "invalid_share",
            report.invalid_share <= report.max_invalid_share,
            report.invalid_share,
            report.max_invalid_share,
            f"{report.invalid_rows:,} of {report.rows:,} rows are not usable ({report.invalid_share:.2%})",
        ),
        verdict(
            "invalid_rows",
            report.invalid_rows == 0,
            report.invalid_rows,
            0,
            f"{report.invalid_rows:,} rows are quarantined",
            warn=True,
        ),
    ]


def _rule(rule: str, report: ValidationReport) -> dg.AssetCheckResult:
    findings = [finding for finding in report.findings if finding.rule == rule]
    fatal = [finding for finding in findings if finding.fatal]
    examples = {
        f"example rows {i}" if i else "example rows": records(finding.examples)
        for i, finding in enumerate(f for f in findings if f.examples)
    }
    return verdict(
        rule,
        not fatal,
        sum(finding.count for finding in fatal),
        0,
        "; ".join(finding.message for finding in fatal or findings) or "nothing found",
        metadata={"quarantined rows": sum(f.count for f in findings if not f.fatal), **examples},
    )


def _stored(finding: Finding) -> RuleFinding:
    """Example rows hold numpy and pandas scalars: kept as plain JSON values."""
    examples = [
        {str(k): v if isinstance(v, bool | int | float | str) else str(v) for k, v in row.items()}
        for row in finding.examples
    ]
    return RuleFinding(
        rule=finding.rule,
        message=finding.message,
        count=finding.count,
        fatal=finding.fatal,
        examples=examples,
    )
