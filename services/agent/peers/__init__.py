"""The services as the agent speaks to them, and how a request is signed, sent and asked again."""
