"""The Parquet record of everything that was processed: schema, fragments, statistics, verification, report."""
