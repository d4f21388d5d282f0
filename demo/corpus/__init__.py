"""The demo's texts: topics, a grammar of six manners, and users with tastes over them."""
