"""From documents and a name to a request: what must go, its names, its neighbours, and questions about both."""
