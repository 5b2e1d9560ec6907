"""The admin API over real HTTP, beside a fake master."""
