"""What a request means: scoring, routing, generating, learning, replaying. Neither HTTP nor pydantic is known here."""
