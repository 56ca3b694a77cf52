"""Peers that are no packages: PPO written in other well-known manners, for comparison only."""
