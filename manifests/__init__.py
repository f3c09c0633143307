"""The Parquet manifest of everything that was processed: schema, fragments, statistics, verification, report."""
