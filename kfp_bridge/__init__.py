"""Export any Dagster asset graph as a Kubeflow pipeline that is proven to be the same graph.

Nothing here is imported from a project: the graph is read from `dagster.Definitions`, and the only things
a project declares are, in the metadata of its assets, the artifact type (`kfp/artifact_type`) and, where wanted,
whether KFP may reuse its value (`kfp/cache`) and which run config fields concern it (`kfp/config`).
"""
