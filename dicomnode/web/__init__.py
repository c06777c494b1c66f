"""The web page: what the node did and waits for, seen and acted on in a browser, in a process of its own."""
