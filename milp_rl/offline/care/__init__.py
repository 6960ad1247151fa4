"""Care management from logged weeks: data, charts, report."""
