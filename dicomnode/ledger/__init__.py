"""The node's only queue and only memory: states, schema, the one writer, the readers, migrations."""
