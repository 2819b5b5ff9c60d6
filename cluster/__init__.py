"""Learning on Ray: replicas of a learner, each of one or more shards, that average their weights as they learn."""
