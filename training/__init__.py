"""M²UGen's three training stages: made on top of the datasets that `pipelines` writes."""
