"""RouterX: a self-hosted LLM gateway. One process, one YAML file, one SQLite file."""

__version__ = "0.1.0"
