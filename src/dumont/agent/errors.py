"""How work with an agent can fail."""


class AgentFailed(Exception):
    """The agent, or getting it started, says that something cannot be done; `code` is stable, `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class AgentLost(Exception):
    """The wire ended or fell silent: what the agent did last is unknown."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)
