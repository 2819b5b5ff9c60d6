"""The engine of a Ray cluster: replicas made of shards, that average their weights. The only place that imports ray."""
