"""A user's filter that does nothing: what hosting one costs."""


class Empty:
    def on_request(self, request) -> None:
        pass
