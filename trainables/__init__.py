"""A training library: models, data sets, optimizer variants, schedules and the loop that trains one trial."""
