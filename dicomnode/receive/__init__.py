"""The door: who may come in, what is asked of them, and the order in which an instance becomes ours."""
