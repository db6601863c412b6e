"""`features`: numeric splits and the constants that normalise them. Runs beside validation."""

from typing import TYPE_CHECKING

import dagster as dg

from jukebox_orch.assets.metadata import image, verdict
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.contract.project import Dataset, Features
from jukebox_orch.ml.artifacts import FeatureSet
from jukebox_orch.storage.artifact_store import ArtifactStore

if TYPE_CHECKING:
    import numpy as np

NOUN = "features"
_NORMALIZATION_TOLERANCE = 1e-3
_RAREST_SHARE = 1e-3


def features_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    @graph.asset(
        NOUN,
        kinds={"numpy"},
        artifact_type="Dataset",
        description="Train, validation and test splits as numbers, with the constants that normalise them.",
        upstream=["dataset"],
        checks=[
            Check("finite", "No missing or infinite number in any split."),
            Check("normalised", "The constants bring the training split to its range."),
            Check("fitted_on_train", "The constants are those of the training split alone."),
            Check("no_overlap", "No two splits share a split key."),
            Check("class_balance", "Every class is frequent enough in every split.", blocking=False),
        ],
    )
    def features(
        context: dg.AssetExecutionContext, dataset: Dataset, artifact_store: dg.ResourceParam[ArtifactStore]
    ):
        from jukebox_orch.assets import figures
        from jukebox_orch.ml import drift
        from jukebox_orch.ml.formats import format_of

        settings = graph.settings(NOUN, context)
        digest = format_of(dataset).digest(dataset)
        fingerprint = graph.fingerprint(NOUN, {"dataset": digest}, split=settings.split, seed=settings.seed)
        stored = artifact_store.recall(context.instance, graph.key(NOUN), fingerprint)
        if stored is None:
            made = FeatureSet(
                graph.project.build_features(dataset, settings.split, settings.seed),
                digest,
                drift.profile(graph.project.monitored(dataset)),
            )
        else:
            made = stored.value
        shares = graph.project.task.balance(made.features)
        return dg.MaterializeResult(
            value=stored or made,
            data_version=dg.DataVersion(made.digest),
            metadata={
                "fingerprint": fingerprint,
                **{f"{name} entries": len(part) for name, part in made.features.parts.items()},
                **{
                    f"{name} rows": round(float(part.weight.sum()))
                    for name, part in made.features.parts.items()
                },
                "inputs": ", ".join(made.features.inputs),
                "labels": len(made.features.labels),
                "split keys": dg.MetadataValue.json(
                    {name: part.keys[:10].tolist() for name, part in made.features.parts.items()}
                ),
                "feature distributions": image(
                    figures.png(figures.feature_distributions(made.features)),
                    "feature distributions of the training split",
                ),
                "class balance": image(figures.png(figures.balance(shares)), "target per split"),
            },
            check_results=[*feature_gates(made.features), _class_balance(graph, made.features)],
        )

    return features


def feature_gates(features: Features) -> list[dg.AssetCheckResult]:
    """The verdicts of the blocking checks."""
    return [_finite(features), _normalised(features), _fitted_on_train(features), _no_overlap(features)]


def _finite(features: Features) -> dg.AssetCheckResult:
    import numpy as np

    bad = {
        f"{name}.{field}": int((~np.isfinite(array)).sum())
        for name, part in features.parts.items()
        for field, array in (("x", part.x), ("y", part.y), ("weight", part.weight))
        if np.issubdtype(array.dtype, np.floating)
    }
    bad = {name: count for name, count in bad.items() if count}
    text = f"missing or infinite: {bad}" if bad else "every number is finite"
    return verdict("finite", not bad, sum(bad.values()), 0, text)


def _normalised(features: Features) -> dg.AssetCheckResult:
    import numpy as np

    x = features.normalization.apply(_head(features.train.x, features))
    if features.normalization.kind == "unit":
        off = float(max(0.0, -x.min(), x.max() - 1))
        return verdict("normalised", off == 0, off, 0.0, f"values reach {off:.3g} beyond 0..1")
    mean, deviation = np.abs(x.mean(axis=0, dtype=np.float64)), x.std(axis=0, dtype=np.float64)
    constant = deviation < _NORMALIZATION_TOLERANCE
    off = float(np.maximum(mean, np.where(constant, 0, np.abs(deviation - 1))).max())
    return verdict(
        "normalised",
        off <= _NORMALIZATION_TOLERANCE,
        off,
        _NORMALIZATION_TOLERANCE,
        f"largest distance of a feature's mean from 0 or its deviation from 1: {off:.2g}"
        + (f"; {int(constant.sum())} constant features" if constant.any() else ""),
    )


def _fitted_on_train(features: Features) -> dg.AssetCheckResult:
    if features.normalization.kind == "unit":
        return verdict("fitted_on_train", True, 0.0, 0.0, "the range is fixed, nothing was fitted")
    fitted = type(features.normalization).standard(features.train.x)
    distance = float(
        max(
            abs((features.normalization.offset - fitted.offset) / fitted.scale).max(),
            abs(features.normalization.scale / fitted.scale - 1).max(),
        )
    )
    text = f"constants differ from the training split's own by {distance:.2g} of its deviation"
    return verdict("fitted_on_train", distance <= 1e-6, distance, 1e-6, text)


def _no_overlap(features: Features) -> dg.AssetCheckResult:
    import numpy as np

    train, validation, test = (part.keys for part in features.parts.values())
    shared = np.unique(
        np.concatenate(
            [np.intersect1d(a, b) for a, b in ((train, validation), (train, test), (validation, test))]
        )
    )
    text = f"shared: {', '.join(map(str, shared[:5]))}" if len(shared) else "no key is in two splits"
    return verdict("no_overlap", not len(shared), len(shared), 0, text)


def _class_balance(graph: Graph, features: Features) -> dg.AssetCheckResult:
    shares = graph.project.task.balance(features)
    rarest = float(shares.to_numpy().min())
    rare = [str(name) for name in shares.index[(shares < _RAREST_SHARE).any(axis=1)]]
    text = f"below {_RAREST_SHARE:.1%} in some split: {', '.join(rare[:10])}" if rare else "no class is rare"
    return verdict("class_balance", not rare, rarest, _RAREST_SHARE, text, warn=True)


def _head(x: "np.ndarray", features: Features) -> "np.ndarray":
    """Fixed ranges are judged on a sample; fitted constants need every row."""
    return x[:10_000] if features.normalization.kind == "unit" else x
