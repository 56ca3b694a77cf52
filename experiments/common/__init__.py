"""What experiments share: tasks, arms, measures and claims that several of them use."""
