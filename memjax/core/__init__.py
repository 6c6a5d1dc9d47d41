"""The vocabulary every other floor speaks: types, schedules, the diffusion process, guidance."""
