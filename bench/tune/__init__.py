"""The best setting of a recipe on this machine: settings race, the better half goes on, and so on."""
