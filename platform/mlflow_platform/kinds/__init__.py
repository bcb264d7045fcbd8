"""How each kind of object is observed on a tracking server and how its changes become calls."""
