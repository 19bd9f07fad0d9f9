"""The model that ships with Baton, and the recipe that made it."""
