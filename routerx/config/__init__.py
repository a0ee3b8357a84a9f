"""The YAML file as desired state: schema, loading with every error at once, compiling to an immutable Snapshot."""
