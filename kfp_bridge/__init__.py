"""Export any Dagster asset graph as a Kubeflow pipeline and verify that both are the same graph.

This package imports no project: it reads the graph from `dagster.Definitions`. A project only declares metadata
of its assets: the artifact type (`kfp/artifact_type`) and, optionally, whether KFP may reuse the value (`kfp/cache`)
and on which run config fields the asset depends (`kfp/config`).
"""
