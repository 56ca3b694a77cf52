"""Language-model track: preference data, models, losses, reward models, trainers, evaluation."""
