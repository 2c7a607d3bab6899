"""One script for each public source; each writes the JSONL sample schema of `vlrl.schema`."""
