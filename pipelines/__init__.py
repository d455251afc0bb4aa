"""How it scales: the only room that imports ray."""
