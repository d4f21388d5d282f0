"""The online half: an HTTP service that scores, generates, routes and learns for each user."""
