"""Export any Dagster asset graph as a Kubeflow pipeline that is proven to be the same graph.

Nothing here is imported from a project: the graph is read from `dagster.Definitions`, and the only things
a project declares are the artifact type of each asset (`kfp/artifact_type` in its metadata) and, where
wanted, that an asset must run every time (`kfp/cache: False`).
"""
