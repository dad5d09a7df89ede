"""What everything stands on: errors, config, schema, storage, manifests, shards, cluster, tracking.

The leaf of the dependency order: it imports nothing of clipline's other packages. Modules here are light
to import; Ray, torch, pyarrow and MLflow are imported where they are first needed, because
``clipline plan`` has half a second to answer.
"""
