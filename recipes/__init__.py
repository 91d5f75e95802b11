"""How the bundled weights were made: synthetic images, and two trainings; not in the wheel."""
