from django.apps import AppConfig


class StatusConfig(AppConfig):
    name = __name__.rpartition(".")[0]
