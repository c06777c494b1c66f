"""The web page: it shows the work of the node and what waits for a person, who acts there. A process of its own."""
