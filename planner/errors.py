"""What is wrong with an inventory, said once and in one shape."""

HIDDEN = "(hidden)"
SECRET_WORDS = ("password", "secret", "token", "private_key")


def shown(variable, value):
    """The value as a person may see it: secrets never, long ones shortened."""
    if any(word in str(variable) for word in SECRET_WORDS):
        return HIDDEN
    if variable == "django_app_environment" and hasattr(value, "keys"):
        value = ", ".join(map(str, value))  # its values are the project's own secrets as often as not
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."


def problem(host, variable, value, message, mend, set_to=None, on=None):
    """One line of a refusal.

    `set_to` is the mend as data ({variable: value}), for those that consist of setting variables;
    `on` names the hosts it applies to (default: `host`). A test applies it and expects a pass.
    """
    entry = {
        "host": host,
        "variable": variable,
        "value": None if value is None else shown(variable, value),
        "message": message,
        "mend": mend,
    }
    if set_to:
        entry["set_to"] = set_to
        entry["on"] = on or ([host] if host else [])
    return entry


def line(entry):
    """`HOST: VARIABLE=VALUE: what is wrong; mend: ...`"""
    what = entry["variable"] or ""
    if entry["value"] is not None:
        what += f"={entry['value']}"
    head = ": ".join(part for part in (entry["host"], what) if part)
    return f"{head}: {entry['message']}; mend: {entry['mend']}"


class PlanError(ValueError):
    """Carries every problem found, not only the first."""

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(line(entry) for entry in self.problems))
