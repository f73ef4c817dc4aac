"""The operators that passes and backends meet in: one file each, and helpers whose names begin with `_`."""
