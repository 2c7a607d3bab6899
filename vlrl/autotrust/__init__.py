"""AutoTrust."""

PARTS: dict[str, object] = {}


def is_autotrust(task: str) -> bool:
    return task == "autotrust" or task.startswith("autotrust/")
