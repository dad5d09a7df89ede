"""The base of all other packages: errors, config, schema, events, stores, manifests, shards, cluster, tracking.

The leaf of the dependency order: it imports nothing of clipline's other packages. What ``clipline plan`` imports is
light, because it has half a second to answer: Ray, torch, pyarrow and MLflow are imported where they are first needed.
"""
